/* `chat`: a conversation with the model; `prompt`: what its chat template makes of one.
 *
 * Each turn renders the whole conversation by the template and tokenises it; of the KV cache, what
 * the new prompt begins with stays. On a terminal lines come from the editor (edit.h), else each
 * line of standard input is a message and answers are lines of standard output. Ctrl-C ends the
 * answer that is being written, not the program.
 */
#include "runtime/cli.h"

#include "runtime/edit.h"
#include "runtime/file.h"
#include "runtime/generate.h"
#include "runtime/json.h"
#include "runtime/prompt.h"
#include "runtime/stream.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHAT_ROOM = 8192 }; /* tokens of context when -c does not say */

typedef struct Message {
    const char *role;
    char *text; /* malloc'ed, valid UTF-8 */
    size_t n;
} Message;

typedef struct Chat {
    PfqCli *c;
    PfqTemplate tpl;
    PfqMem tools_mem;
    PfqVal tools; /* none: there are none */
    Message *message;
    size_t n, cap;
    int32_t *seen; /* [engine.pos] tokens in the KV cache */
    PfqSampler sampler;
    PfqStream stream;
    PfqEdit edit;
    bool tty, quit, failed; /* failed: c->err says why */
} Chat;

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
}

/* ---- the conversation ---- */

static bool open_template(PfqCli *c, PfqTemplate *t)
{
    if (!c->model->chat) {
        return pfq_fail(
            &c->err,
            "this model was compiled without a chat template; 'run' continues a text "
            "(a template goes beside the tokenizer, or is \"chat_template\" in model.json)");
    }
    const char *bad = pfq_tpl_open(t, c->model->chat, c->model->chat_bytes);
    return !bad || pfq_fail(&c->err, "%s", bad);
}

/* A copy that is valid UTF-8; NULL: out of memory. */
static char *repaired(const char *s, size_t n, size_t *out_n)
{
    PfqStream fix = {0};
    pfq_stream_start(&fix, NULL, 0);
    if (!pfq_stream_add(&fix, s, n) || !pfq_stream_end(&fix)) {
        pfq_stream_free(&fix);
        return NULL;
    }
    *out_n = fix.n; /* pfq_stream_end left room for a NUL */
    fix.text[fix.n] = 0;
    return fix.text;
}

static bool add_message(Chat *ch, const char *role, const char *s, size_t n)
{
    if (ch->n == ch->cap) {
        const size_t cap = ch->cap * 2 + 8;
        Message *p = realloc(ch->message, cap * sizeof *p);
        if (!p) {
            return pfq_fail(&ch->c->err, "out of memory for the conversation");
        }
        ch->message = p;
        ch->cap = cap;
    }
    Message m = {.role = role};
    m.text = repaired(s, n, &m.n);
    if (!m.text) {
        return pfq_fail(&ch->c->err, "out of memory for a message");
    }
    ch->message[ch->n++] = m;
    return true;
}

static void drop_messages(Chat *ch, size_t keep)
{
    while (ch->n > keep) {
        free(ch->message[--ch->n].text);
    }
}

static bool has_system(const Chat *ch)
{
    return ch->n > 0 && strcmp(ch->message[0].role, "system") == 0;
}

/* The conversation as the template sees it; undefined: out of memory. */
static PfqVal messages(const Chat *ch, PfqMem *m)
{
    PfqVal *list = pfq_mem(m, (ch->n + 1) * sizeof *list);
    PfqPair *pair = pfq_mem(m, (ch->n + 1) * 2 * sizeof *pair);
    if (!list || !pair) {
        return (PfqVal){0};
    }
    for (size_t i = 0; i < ch->n; i++, pair += 2) {
        const Message *msg = &ch->message[i];
        pair[0] = (PfqPair){pfq_val_str("role", 4), pfq_val_str(msg->role, strlen(msg->role))};
        pair[1] = (PfqPair){pfq_val_str("content", 7), pfq_val_str(msg->text, msg->n)};
        list[i] = (PfqVal){.kind = PFQ_V_DICT, .n = 2, .pair = pair};
    }
    return (PfqVal){.kind = PFQ_V_LIST, .n = (uint32_t)ch->n, .at = list};
}

/* The prompt's tokens, malloc'ed, without a BOS that the model's prefix already is. */
static int32_t *prompt_tokens(Chat *ch, int32_t *n)
{
    PfqMem m;
    int32_t *ids = NULL, skip = 0;
    pfq_mem_init(&m, PFQ_MEM_LIMIT);
    const PfqTalk talk = {.messages = messages(ch, &m), .tools = ch->tools};
    if (talk.messages.kind != PFQ_V_LIST) {
        pfq_fail(&ch->c->err, "the conversation is too long");
    } else {
        ids = pfq_prompt_tokens(ch->c->model, &ch->c->tok, &ch->tpl, &talk, &m, n, &skip,
                                &ch->c->err);
    }
    pfq_mem_free(&m);
    if (ids) {
        *n -= skip;
        memmove(ids, ids + skip, (size_t)*n * sizeof *ids);
    }
    return ids;
}

/* ---- an answer ---- */

typedef struct Turn {
    int32_t n_prompt, n_kept;
    int64_t n_new;
    double start, first, end; /* first: when the prompt was read */
    const char *cut;          /* why the answer did not end by itself, or "" */
} Turn;

/* Brings the KV cache to the prompt: what they have in common stays, but for its last token, whose
 * logits are needed. *done is false if Ctrl-C came in between. */
static bool read_prompt(Chat *ch, const int32_t *ids, Turn *t, bool *done)
{
    PfqEngine *e = &ch->c->engine;
    int32_t keep = 0;
    while (keep < e->pos && keep < t->n_prompt - 1 && ids[keep] == ch->seen[keep]) {
        keep++;
    }
    pfq_engine_rewind(e, keep);
    t->n_kept = keep;
    *done = true;
    for (int32_t i = keep; i < t->n_prompt;) {
        const int32_t left = t->n_prompt - i,
                      take = left < e->model->chunk ? left : e->model->chunk;
        *done = !interrupted;
        if (!*done) {
            t->cut = "; stopped";
            return true;
        }
        memcpy(ch->seen + i, ids + i, (size_t)take * sizeof *ids);
        if (!pfq_engine_prefill(e, ids + i, take, take == left ? PFQ_WANT_LAST : PFQ_WANT_NONE,
                                NULL, NULL, &ch->c->err)) {
            ch->failed = true;
            return false;
        }
        i += take;
    }
    return true;
}

/* What a model wrote must not steer the terminal: control characters become U+FFFD. */
static void show(Chat *ch)
{
    const PfqStream *s = &ch->stream;
    for (size_t i = s->from; i < s->to; i++) {
        const unsigned char b = (unsigned char)s->text[i];
        const bool c1 = b == 0xc2 && i + 1 < s->to && (unsigned char)s->text[i + 1] < 0xa0;
        if (ch->tty && ((b < 0x20 && b != '\n' && b != '\t') || b == 0x7f || c1)) {
            pfq_out_write(ch->c->out, "\xef\xbf\xbd", 3);
            i += c1;
        } else {
            pfq_out_write(ch->c->out, &s->text[i], 1);
        }
    }
    pfq_out_flush(ch->c->out);
}

static bool generate(Chat *ch, Turn *t)
{
    PfqCli *c = ch->c;
    PfqEngine *e = &c->engine;
    PfqGen gen;
    bool first = true;
    if (!pfq_gen_start(&gen, e, &ch->sampler, c->opt.predict, &c->err)) {
        ch->failed = true;
        return false;
    }
    while ((c->opt.predict < 0 || t->n_new < c->opt.predict) && !interrupted && !c->out->error) {
        char buf[64];
        size_t len;
        int32_t id;
        const PfqGenEnd end = pfq_gen_next(&gen, &id, &c->err);
        if (end == PFQ_GEN_FULL) {
            t->cut = "; the context is full, /reset begins anew";
            break;
        }
        if (end == PFQ_GEN_FAILED) {
            ch->failed = true;
            return false;
        }
        if (id < 0) {
            return pfq_fail(&c->err, "the model's logits are not finite");
        }
        if (pfq_tok_is_eog(&c->tok, id)) {
            break;
        }
        const char *piece = first ? pfq_tok_first_piece(&c->tok, id, buf, &len)
                                  : pfq_tok_piece(&c->tok, id, false, buf, &len);
        first = first && len == 0;
        if (!pfq_stream_add(&ch->stream, piece, len)) {
            return pfq_fail(&c->err, "out of memory for the answer");
        }
        show(ch);
        t->n_new++;
        if (ch->stream.stopped) {
            break;
        }
        if (e->pos < e->ctx) {
            ch->seen[e->pos] = id; /* once its step is done */
        }
        t->cut = t->n_new == c->opt.predict ? "; cut at -n" : "";
    }
    t->cut = interrupted ? "; stopped" : t->cut;
    return true;
}

static void report(const Turn *t)
{
    const double read = t->first - t->start, wrote = t->end - t->first;
    const int32_t n_read = t->n_prompt - t->n_kept;
    pfq_note("[%d tokens read, %.1f tok/s; %d kept; %lld written, %.1f tok/s%s]\n", n_read,
             read > 0 ? n_read / read : 0, t->n_kept, (long long)t->n_new,
             wrote > 0 ? (double)t->n_new / wrote : 0, t->cut);
}

/* Reads the prompt and writes the answer, which becomes a message. */
static bool answer(Chat *ch, const int32_t *ids, Turn *t)
{
    PfqCli *c = ch->c;
    bool ready;
    if (t->n_prompt > c->engine.ctx) {
        return pfq_fail(
            &c->err,
            "the conversation has %d tokens, more than the context of %d; /reset begins "
            "a new one",
            t->n_prompt, c->engine.ctx);
    }
    pfq_stream_start(&ch->stream, c->opt.stop.at, c->opt.stop.n);
    if (!read_prompt(ch, ids, t, &ready)) {
        return false;
    }
    t->first = pfq_now();
    bool ok = !ready || generate(ch, t);
    t->end = pfq_now();
    if (!pfq_stream_end(&ch->stream)) {
        ok = pfq_fail(&c->err, "out of memory for the answer");
    }
    show(ch);
    if (t->n_new > 0 || !interrupted) {
        pfq_out_write(c->out, "\n", 1);
    }
    pfq_out_flush(c->out);
    if (!ok) {
        return false;
    }
    report(t);
    return t->n_new == 0 && interrupted
               ? true
               : add_message(ch, "assistant", ch->stream.text, ch->stream.to);
}

/* One turn. After an error, or a stop before the first token, the message is as if never sent. */
static bool turn(Chat *ch, const char *s, size_t n)
{
    const size_t before = ch->n;
    Turn t = {.start = pfq_now(), .cut = ""};
    interrupted = 0;
    int32_t *ids = add_message(ch, "user", s, n) ? prompt_tokens(ch, &t.n_prompt) : NULL;
    const bool ok = ids && answer(ch, ids, &t);
    free(ids);
    if (!ok || ch->n == before + 1) {
        drop_messages(ch, before);
    }
    return ok;
}

/* ---- commands ---- */

static bool cmd_reset(Chat *ch, const char *arg)
{
    (void)arg;
    drop_messages(ch, has_system(ch));
    pfq_note("[a new conversation]\n");
    return true;
}

static bool cmd_system(Chat *ch, const char *arg)
{
    if (!*arg) {
        pfq_note("[system: %s]\n", has_system(ch) ? ch->message[0].text : "none");
        return true;
    }
    if (!add_message(ch, "system", arg, strlen(arg))) {
        return false;
    }
    const Message m = ch->message[--ch->n];
    if (has_system(ch)) {
        free(ch->message[0].text);
    } else {
        memmove(ch->message + 1, ch->message, ch->n++ * sizeof m);
    }
    ch->message[0] = m;
    pfq_note("[the system message is set]\n");
    return true;
}

static void save_string(PfqSave *f, const char *s, size_t n)
{
    pfq_save_write(f, "\"", 1);
    for (size_t i = 0; i < n; i++) {
        char code[8];
        pfq_save_write(f, code, pfq_json_escape((unsigned char)s[i], code));
    }
    pfq_save_write(f, "\"", 1);
}

static void save_text(PfqSave *f, const char *s)
{
    pfq_save_write(f, s, strlen(s));
}

/* The file that a name means, as a shell reads it: ~/ is the home directory. */
static const char *file_named(const char *name, char *buf, size_t cap)
{
    const char *home = getenv("HOME");
    if (strncmp(name, "~/", 2) != 0 || !home) {
        return name;
    }
    const int n = snprintf(buf, cap, "%s%s", home, name + 1);
    return n < (int)cap ? buf : name;
}

static bool cmd_save(Chat *ch, const char *arg)
{
    PfqSave f;
    char path[4096];
    if (!*arg) {
        return pfq_fail(&ch->c->err, "/save needs the name of a file");
    }
    if (!pfq_save_open(&f, file_named(arg, path, sizeof path), &ch->c->err)) {
        return false;
    }
    save_text(&f, "{\"messages\": [");
    for (size_t i = 0; i < ch->n; i++) {
        save_text(&f, i ? ",\n {\"role\": \"" : "\n {\"role\": \"");
        save_text(&f, ch->message[i].role);
        save_text(&f, "\", \"content\": ");
        save_string(&f, ch->message[i].text, ch->message[i].n);
        save_text(&f, "}");
    }
    save_text(&f, "]}\n");
    if (!pfq_save_close(&f, true, &ch->c->err)) {
        return false;
    }
    pfq_note("[%zu messages saved]\n", ch->n);
    return true;
}

static bool cmd_exit(Chat *ch, const char *arg)
{
    (void)arg;
    ch->quit = true;
    return true;
}

static bool cmd_help(Chat *ch, const char *arg);

static const struct {
    const char *name, *arg, *help;
    bool (*run)(Chat *ch, const char *arg);
} commands[] = {
    {"/help", "", "this list", cmd_help},
    {"/reset", "", "begin a new conversation; the system message stays", cmd_reset},
    {"/system", " TEXT", "set the system message; without TEXT, show it", cmd_system},
    {"/save", " FILE", "write the conversation as JSON, which 'prompt' reads", cmd_save},
    {"/exit", "", "leave, as Ctrl-D does", cmd_exit},
};

static bool cmd_help(Chat *ch, const char *arg)
{
    (void)ch, (void)arg;
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        char left[32];
        snprintf(left, sizeof left, "%s%s", commands[i].name, commands[i].arg);
        pfq_note("  %-14s %s\n", left, commands[i].help);
    }
    pfq_note(
        "A message that begins with / is written with //. Alt-Enter, or \\ at its end, goes on "
        "in a new line.\nCtrl-C stops an answer.\n");
    return true;
}

static bool command(Chat *ch, const char *line)
{
    const size_t n = strcspn(line, " ");
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (strlen(commands[i].name) == n && memcmp(line, commands[i].name, n) == 0) {
            const char *arg = line + n + strspn(line + n, " ");
            return !*arg || *commands[i].arg
                       ? commands[i].run(ch, arg)
                       : pfq_fail(&ch->c->err, "%s takes nothing behind it", commands[i].name);
        }
    }
    return pfq_fail(&ch->c->err, "there is no command %.*s; /help lists them",
                    (int)(n < 40 ? n : 40), line);
}

static bool line(Chat *ch, const char *s, size_t n)
{
    if (n == 0) {
        return true;
    }
    if (s[0] == '/' && !(n > 1 && s[1] == '/')) {
        return command(ch, s);
    }
    return turn(ch, s + (s[0] == '/'), n - (s[0] == '/'));
}

/* ---- input ---- */

/* On a terminal an error ends a turn; the conversation goes on unless the engine is lost. */
static bool talk(Chat *ch)
{
    if (!pfq_edit_open(&ch->edit, 0, 1)) {
        return pfq_fail(&ch->c->err, "out of memory for the editor");
    }
    pfq_note("%s: /help lists the commands, Ctrl-D leaves\n", ch->c->program);
    while (!ch->quit && !ch->failed && !ch->c->out->error) {
        const PfqEditEnd end = pfq_edit_read(&ch->edit, "> ");
        if (end == PFQ_EDIT_EOF) {
            break;
        }
        if (end == PFQ_EDIT_INTERRUPT) {
            if (ch->edit.was_empty) {
                pfq_note("[Ctrl-D leaves]\n");
            }
        } else if (!line(ch, ch->edit.text, ch->edit.n) && !ch->failed) {
            pfq_note("%s: %s\n", ch->c->program, ch->c->err.text);
        }
    }
    return !ch->failed;
}

/* Without one, an error is the program's. */
static bool pipe_lines(Chat *ch)
{
    char *text = NULL;
    size_t cap = 0;
    bool ok = true;
    ssize_t n;
    interrupted = 0;
    while (ok && !ch->quit && !ch->c->out->error && (n = getline(&text, &cap, stdin)) >= 0) {
        if (n > 0 && text[n - 1] == '\n') {
            text[--n] = 0;
        }
        if (n > 0 && text[n - 1] == '\r') {
            text[--n] = 0;
        }
        ok = n <= PFQ_EDIT_MAX
                 ? line(ch, text, (size_t)n)
                 : pfq_fail(&ch->c->err, "a line of more than %d bytes", PFQ_EDIT_MAX);
        interrupted = 0;
    }
    if (ok && ferror(stdin) && errno != EINTR) {
        ok = pfq_fail(&ch->c->err, "cannot read standard input: %s", strerror(errno));
    }
    free(text);
    return ok;
}

static bool read_json(PfqCli *c, const char *path, PfqMem *m, PfqVal *out)
{
    size_t n;
    PfqErr why;
    char *text = pfq_read_file(path, &n, &c->err);
    if (!text) {
        return false;
    }
    const bool ok =
        pfq_val_json(m, text, n, out, &why) || pfq_fail(&c->err, "%s: %s", path, why.text);
    free(text);
    return ok;
}

static bool read_tools(Chat *ch)
{
    const char *path = ch->c->opt.tools;
    ch->tools = (PfqVal){.kind = PFQ_V_NONE};
    if (!path) {
        return true;
    }
    if (!pfq_tpl_reads(&ch->tpl, "tools", 5)) {
        return pfq_fail(&ch->c->err, "--tools: this model's chat template has no use for 'tools'");
    }
    return read_json(ch->c, path, &ch->tools_mem, &ch->tools) &&
           (ch->tools.kind == PFQ_V_LIST ||
            pfq_fail(&ch->c->err, "%s: the tools are not a list", path));
}

static bool open_chat(Chat *ch)
{
    PfqCli *c = ch->c;
    const PfqOptions *o = &c->opt;
    const int64_t ctx = o->ctx                          ? o->ctx
                        : c->model->context < CHAT_ROOM ? c->model->context
                                                        : CHAT_ROOM;
    ch->sampler = (PfqSampler){.temp = o->temp,
                               .top_p = o->top_p,
                               .min_p = o->min_p,
                               .top_k = (int32_t)o->top_k,
                               .state = (uint64_t)o->seed};
    if (!open_template(c, &ch->tpl) || !read_tools(ch) || !pfq_cli_load(c, ctx, true)) {
        return false;
    }
    ch->seen = malloc((size_t)c->engine.ctx * sizeof *ch->seen);
    if (!ch->seen || !pfq_sampler_init(&ch->sampler, c->model->vocab)) {
        return pfq_fail(&c->err, "out of memory for the conversation");
    }
    return !o->system || cmd_system(ch, o->system);
}

bool pfq_cmd_chat(PfqCli *c)
{
    Chat ch = {.c = c};
    struct sigaction stop = {.sa_handler = on_interrupt}, old;
    const char *term = getenv("TERM");
    pfq_mem_init(&ch.tools_mem, PFQ_MEM_LIMIT);
    ch.tty = isatty(0) && isatty(1) && !(term && strcmp(term, "dumb") == 0);
    bool ok = open_chat(&ch);
    if (ok) {
        sigaction(SIGINT, &stop, &old);
        ok = ch.tty ? talk(&ch) : pipe_lines(&ch);
        sigaction(SIGINT, &old, NULL);
        if (interrupted && !ch.tty) { /* between messages it ends the program, as anywhere */
            pfq_out_flush(c->out);
            raise(SIGINT);
        }
    }
    drop_messages(&ch, 0);
    free(ch.message);
    free(ch.seen);
    pfq_sampler_free(&ch.sampler);
    pfq_stream_free(&ch.stream);
    pfq_edit_close(&ch.edit);
    pfq_mem_free(&ch.tools_mem);
    return ok;
}

/* ---- prompt ---- */

/* A list is the messages of a conversation whose answer is wanted; an object is all variables. What
 * transformers always defines is there in both. */
static PfqVal with_defaults(PfqVal given, PfqPair pair[4], PfqMem *m)
{
    const PfqVal none = {.kind = PFQ_V_NONE};
    const PfqPair defaults[4] = {
        {pfq_val_str("messages", 8), given},
        {pfq_val_str("tools", 5), none},
        {pfq_val_str("documents", 9), none},
        {pfq_val_str("add_generation_prompt", 21), pfq_val_bool(given.kind == PFQ_V_LIST)},
    };
    memcpy(pair, defaults, sizeof defaults);
    if (given.kind == PFQ_V_LIST) {
        return (PfqVal){.kind = PFQ_V_DICT, .n = 4, .pair = pair};
    }
    PfqPair *all = pfq_mem(m, ((size_t)given.n + 4) * sizeof *all);
    PfqVal out = {.kind = PFQ_V_DICT, .pair = all};
    for (int i = 1; all && i < 4; i++) {
        if (pfq_val_get(given, pair[i].key.s).kind == PFQ_V_UNDEF) {
            all[out.n++] = pair[i];
        }
    }
    for (uint32_t i = 0; all && i < given.n; i++) {
        all[out.n++] = given.pair[i];
    }
    return out;
}

bool pfq_cmd_prompt(PfqCli *c)
{
    PfqTemplate t;
    PfqMem m;
    PfqVal given, text;
    PfqPair pair[4];
    const char *path = c->opt.operands[0];
    if (!open_template(c, &t)) {
        return false;
    }
    pfq_mem_init(&m, PFQ_MEM_LIMIT);
    bool ok = read_json(c, path, &m, &given);
    if (ok && given.kind != PFQ_V_LIST && given.kind != PFQ_V_DICT) {
        ok = pfq_fail(&c->err, "%s: neither a list of messages nor an object", path);
    }
    if (ok) {
        const PfqVal context = with_defaults(given, pair, &m);
        const bool tools = pfq_val_get(context, "tools").kind == PFQ_V_LIST;
        ok = pfq_tpl_render(&t, pfq_tpl_choose(&t, tools), context, NULL, -1, &m, &text, &c->err);
    }
    if (ok) {
        pfq_out_write(c->out, text.s, text.n);
    }
    pfq_mem_free(&m);
    return ok;
}
