/* The tokenizer inside a GGUF file, with the meaning llama.cpp gives to its keys. Two kinds: "gpt2"
 * (byte-level BPE, `pre` names the pre-tokenizer) and "llama" (SentencePiece BPE: merge order by
 * score). */
#include "frontend/tok_build.h"

typedef struct Reader {
    TokBuilder b;
    Diag *d;
    const Gguf *g;
    bool spm;
    u32 n;
    const GgufKv *tokens, *types, *scores, *merges;
} Reader;

static Loc at_key(const Reader *r, const char *key)
{
    const GgufKv *kv = gguf_find(r->g, key);
    return kv ? gguf_loc(r->g, kv) : r->b.loc;
}

/* Optional keys; the default stays when the key is absent. */
static bool opt_bool(const Reader *r, const char *key, bool *v)
{
    return !gguf_find(r->g, key) || gguf_bool(r->d, r->g, key, v);
}

static bool opt_id(const Reader *r, const char *key, i32 *v)
{
    u64 id;
    if (!gguf_find(r->g, key)) return true;
    if (!gguf_u64(r->d, r->g, key, &id)) return false;
    if (id == UINT32_MAX) return true; /* written for "none" */
    if (id >= r->n)
        return diag_error(r->d, E_TOKENIZER, at_key(r, key), "%s is %llu, but there are %u tokens",
                          key, (unsigned long long)id, r->n);
    *v = (i32)id;
    return true;
}

static bool arrays(Reader *r)
{
    r->tokens = gguf_str_array(r->d, r->g, "tokenizer.ggml.tokens");
    if (!r->tokens) return false;
    if (r->tokens->count == 0 || r->tokens->count > PFQ_TOK_MAX_VOCAB)
        return diag_error(r->d, E_LIMIT, gguf_loc(r->g, r->tokens),
                          "the vocabulary has %llu tokens, expected 1..%d",
                          (unsigned long long)r->tokens->count, PFQ_TOK_MAX_VOCAB);
    r->n = (u32)r->tokens->count;
    if (gguf_find(r->g, "tokenizer.ggml.token_type")) {
        r->types = gguf_num_array(r->d, r->g, "tokenizer.ggml.token_type");
        if (!r->types) return false;
    }
    if (r->spm && !(r->scores = gguf_num_array(r->d, r->g, "tokenizer.ggml.scores"))) return false;
    if (!r->spm && !(r->merges = gguf_str_array(r->d, r->g, "tokenizer.ggml.merges"))) return false;
    if ((r->types && r->types->count != r->n) || (r->scores && r->scores->count != r->n))
        return diag_error(r->d, E_TOKENIZER, gguf_loc(r->g, r->tokens),
                          "tokens, token_type and scores must be of one length");
    return true;
}

static bool read_tokens(Reader *r)
{
    const u8 *p = r->tokens->data;
    Loc loc = gguf_loc(r->g, r->tokens);
    for (u32 id = 0; id < r->n; id++) {
        i64 type = r->types ? gguf_elem_i64(r->types, id) : TOKB_NORMAL;
        if (!tokb_typed_token(&r->b, loc, id, gguf_next_str(&p), type, !r->spm)) return false;
    }
    return true;
}

/* "left right", cut at the first space after the first byte. */
static bool read_merge(Reader *r, u32 rank, Str s)
{
    Loc loc = gguf_loc(r->g, r->merges);
    const char *sp = s.n > 1 ? memchr(s.p + 1, ' ', s.n - 1) : NULL;
    if (!sp)
        return diag_error(r->d, E_TOKENIZER, loc, "merge %u has no space: '%.*s'", rank, STRF(s));
    Str side[2] = {{s.p, (size_t)(sp - s.p)}, {sp + 1, s.n - (size_t)(sp - s.p) - 1}}, both;
    for (int i = 0; i < 2; i++)
        if (!tokb_from_byte_alphabet(r->b.a, side[i], &side[i]) || side[i].n == 0)
            return diag_error(r->d, E_TOKENIZER, loc,
                              "merge %u is not in the byte alphabet: '%.*s'", rank, STRF(s));
    char *p = arena_alloc(r->b.a, side[0].n + side[1].n, 1, 1);
    memcpy(p, side[0].p, side[0].n);
    memcpy(p + side[0].n, side[1].p, side[1].n);
    both = (Str){p, side[0].n + side[1].n};
    u32 left = tokb_sym(&r->b, side[0]), right = tokb_sym(&r->b, side[1]),
        result = tokb_sym(&r->b, both);
    if (left == PFQ_TOK_NONE || right == PFQ_TOK_NONE || result == PFQ_TOK_NONE)
        return diag_error(r->d, E_TOKENIZER, loc,
                          "merge %u uses a token that is not in the vocabulary: '%.*s'", rank,
                          STRF(s));
    return tokb_merge(&r->b, loc, left, right, rank, result, false);
}

static bool read_bpe(Reader *r)
{
    Str pre;
    const char *key = "tokenizer.ggml.pre";
    if (!gguf_find(r->g, key)) {
        diag_error(r->d, E_TOKENIZER_UNSUPPORTED, r->b.loc,
                   "the file does not name its pre-tokenizer (%s)", key);
        diag_hint(r->d, "convert the checkpoint again with a current llama.cpp, or use the model's "
                        "tokenizer.json");
        return false;
    }
    if (!gguf_str(r->d, r->g, key, &pre) || !tokb_stages_by_name(&r->b, at_key(r, key), pre))
        return false;
    if (!read_tokens(r)) return false;
    const u8 *p = r->merges->data;
    for (u32 i = 0; i < r->merges->count; i++)
        if (!read_merge(r, i, gguf_next_str(&p))) return false;
    return true;
}

static bool read_spm(Reader *r)
{
    double *score = NEWN(r->b.a, double, r->n);
    for (u32 i = 0; i < r->n; i++)
        score[i] = gguf_elem_f64(r->scores, i);
    return read_tokens(r) && tokb_merges_from_scores(&r->b, gguf_loc(r->g, r->scores), score);
}

/* The format has no place for it, but Phi-3's special tokens swallow the white space after them;
 * llama.cpp knows these models by their name. */
static bool read_phi3(Reader *r)
{
    static const char *const except[] = {"<unk>", "<s>", "<|endoftext|>"};
    Str name;
    if (!gguf_find(r->g, "general.name")) return true;
    if (!gguf_str(r->d, r->g, "general.name", &name)) return false;
    char *lower = arena_strdup(r->b.a, name.p, name.n);
    for (size_t i = 0; i < name.n; i++)
        if (lower[i] >= 'A' && lower[i] <= 'Z') lower[i] = (char)(lower[i] + 32);
    if (!strstr(lower, "phi-3") && !strstr(lower, "phi3")) return true;
    for (u32 i = 0; i < r->b.added.n; i++) {
        bool strip = true;
        for (size_t k = 0; k < sizeof except / sizeof *except; k++)
            strip = strip && !str_is(r->b.added.at[i].name, except[k]);
        if (strip) r->b.tok.at[r->b.added.at[i].id].kind |= PFQ_TOKK_RSTRIP;
    }
    return true;
}

static bool read_policy(Reader *r)
{
    bool add_bos = r->spm || (r->b.flags & PFQ_TOKF_ADD_BOS), add_eos = false;
    bool squeeze = false, space = true;
    i32 eot = -1, eom = -1, unk = -1;
    if (!opt_bool(r, "tokenizer.ggml.add_bos_token", &add_bos) ||
        !opt_bool(r, "tokenizer.ggml.add_eos_token", &add_eos) ||
        !opt_bool(r, "tokenizer.ggml.add_space_prefix", &space) ||
        !opt_bool(r, "tokenizer.ggml.remove_extra_whitespaces", &squeeze) ||
        !opt_id(r, "tokenizer.ggml.bos_token_id", &r->b.bos) ||
        !opt_id(r, "tokenizer.ggml.eos_token_id", &r->b.eos) ||
        !opt_id(r, "tokenizer.ggml.unknown_token_id", &unk) ||
        !opt_id(r, "tokenizer.ggml.eot_token_id", &eot) ||
        !opt_id(r, "tokenizer.ggml.eom_token_id", &eom))
        return false;
    if (add_eos || (squeeze && r->spm))
        return diag_error(r->d, E_TOKENIZER_UNSUPPORTED, r->b.loc, "%s is not supported",
                          add_eos ? "tokenizer.ggml.add_eos_token"
                                  : "tokenizer.ggml.remove_extra_whitespaces");
    r->b.flags &= ~(u32)PFQ_TOKF_ADD_BOS;
    if (add_bos && r->b.bos >= 0) r->b.flags |= PFQ_TOKF_ADD_BOS;
    if (r->spm) {
        r->b.unk = unk;
        r->b.flags |=
            PFQ_TOKF_CHARS | PFQ_TOKF_METASPACE | PFQ_TOKF_FUSE_UNK | (space ? PFQ_TOKF_STRIP : 0);
        r->b.prefix = space ? PFQ_PREFIX_ALWAYS : PFQ_PREFIX_NEVER;
    }
    if (eot >= 0) r->b.tok.at[eot].kind |= PFQ_TOKK_EOG;
    if (eom >= 0) r->b.tok.at[eom].kind |= PFQ_TOKK_EOG;
    return true;
}

bool fe_tokenizer_from_gguf(Diag *d, Arena *a, const Gguf *g, TokBlob *out)
{
    Reader r = {.d = d, .g = g};
    Str model;
    if (!gguf_str(d, g, "tokenizer.ggml.model", &model)) return false;
    Loc loc = gguf_loc(g, gguf_find(g, "tokenizer.ggml.model"));
    r.spm = str_is(model, "llama");
    if (!r.spm && !str_is(model, "gpt2")) {
        diag_error(d, E_TOKENIZER_UNSUPPORTED, loc, "tokenizer model '%.*s' is not supported",
                   STRF(model));
        diag_hint(d, "supported: gpt2, llama");
        return false;
    }
    r.b.loc = loc;
    if (!arrays(&r)) return false;
    tokb_init(&r.b, d, a, loc, r.n);
    if (!(r.spm ? read_spm(&r) : read_bpe(&r)) || !read_policy(&r) || !read_phi3(&r)) return false;
    tokb_mark_eog(&r.b);
    return tokb_finish(&r.b, out);
}
