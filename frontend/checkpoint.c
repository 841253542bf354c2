#include "frontend/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>

enum { MAX_FILES = 4096, MAX_INDEX = 64 << 20 };

typedef struct Opener {
    Diag *d;
    Arena *a;
    const char *base;
    VEC(CkFile) file;
} Opener;

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && strcmp(s + n - k, tail) == 0;
}

typedef enum Look { LOOK_NONE, LOOK_GGUF, LOOK_SAFETENSORS, LOOK_PICKLE } Look;

/* The content decides; where it says nothing, the name tells which reader shall explain what is
 * wrong. The '{' comes before the pickles: a header of 640 bytes starts like one, and one of 19,280
 * like a zip. */
static Look look(const MappedFile *map)
{
    if (gguf_is(map)) return LOOK_GGUF;
    if (map->size >= 9 && map->data[8] == '{') return LOOK_SAFETENSORS;
    if (map->size >= 2 &&
        (memcmp(map->data, "PK", 2) == 0 || memcmp(map->data, "\x80\x02", 2) == 0))
        return LOOK_PICKLE;
    if (ends_with(map->name, ".gguf")) return LOOK_GGUF;
    return ends_with(map->name, ".safetensors") ? LOOK_SAFETENSORS : LOOK_NONE;
}

static bool open_file(Opener *o, const char *path, const MappedFile *map)
{
    if (o->file.n == MAX_FILES)
        return diag_error(o->d, E_LIMIT, LOC_WHAT(map->name), "more than %d checkpoint files",
                          MAX_FILES);
    CkFile f = {.path = arena_strdup(o->a, path, strlen(path)), .map = *map};
    bool ok = false;
    switch (look(map)) {
    case LOOK_GGUF: {
        Gguf *g = NEW(o->a, Gguf);
        f.format = CK_GGUF;
        f.gguf = g;
        ok = gguf_parse(o->d, o->a, map, g);
        break;
    }
    case LOOK_SAFETENSORS: {
        Safetensors *s = NEW(o->a, Safetensors);
        f.format = CK_SAFETENSORS;
        f.st = s;
        ok = st_parse(o->d, o->a, map, s);
        break;
    }
    case LOOK_PICKLE:
        diag_error(o->d, E_FILE_FORMAT, LOC_WHAT(map->name),
                   "the file looks like a PyTorch pickle, which pfqc does not read");
        diag_hint(o->d, "save the model as safetensors");
        break;
    case LOOK_NONE:
        diag_error(o->d, E_FILE_FORMAT, LOC_WHAT(map->name),
                   "the file is neither safetensors nor GGUF");
    }
    vec_push(o->a, &o->file, f); /* also when bad: ck_close unmaps it */
    return ok;
}

static bool open_path(Opener *o, const char *path)
{
    MappedFile map;
    return io_map(o->d, o->a, io_join(o->a, o->base, path), &map) && open_file(o, path, &map);
}

/* ---- model.safetensors.index.json: {"metadata": ..., "weight_map": {tensor: shard file}} ---- */

/* Shards lie beside their index: a bare name, so that a hostile index cannot reach other folders.
 * Symbolic links are followed, because Hugging Face's cache consists of them. */
static bool check_shard_name(Opener *o, const Source *src, const Json *v)
{
    if (v->kind != JSON_STRING)
        return diag_error(o->d, E_JSON_TYPE, json_loc(src, v),
                          "a shard's name is %s, expected a string", json_kind_name(v->kind));
    if (v->str.n == 0 || v->str.n > 255 || memchr(v->str.p, '/', v->str.n) || str_is(v->str, ".") ||
        str_is(v->str, ".."))
        return diag_error(o->d, E_JSON_VALUE, json_loc(src, v),
                          "the shard name '%s' is not the name of a file beside the index",
                          ck_show(o->a, v->str));
    return true;
}

/* The shard's tensor names, to check the index against them. */
static Map *shard_names(Arena *tmp, const CkFile *f)
{
    Map *m = NEW(tmp, Map);
    m->a = tmp;
    for (u32 i = 0; f->st && i < f->st->n_tensors; i++)
        map_put(m, f->st->tensor[i].name, NULL);
    return m;
}

static bool open_shards(Opener *o, Arena *tmp, const char *dir, const Source *src, const Json *map)
{
    Map shards = {.a = tmp};
    VEC(Map *) names = {0};
    for (u32 i = 0; i < map->n; i++) {
        const Json *v = &map->at[i];
        if (!check_shard_name(o, src, v)) return false;
        bool added;
        u32 *shard = map_put(&shards, v->str, &added);
        if (added) {
            *shard = names.n;
            if (!open_path(o, io_join(o->a, dir, v->str.p))) return false;
            Map *m = shard_names(tmp, &o->file.at[o->file.n - 1]);
            vec_push(tmp, &names, m);
        }
        if (!map_get(names.at[*shard], map->key[i]))
            return diag_error(o->d, E_FILE_FORMAT, json_loc(src, v),
                              "the index says that tensor '%s' is in %s, which does not hold it",
                              ck_show(o->a, map->key[i]), ck_show(o->a, v->str));
    }
    return true;
}

static bool open_index(Opener *o, const char *path)
{
    Source *src = NEW(o->a, Source);
    if (!io_read_text(o->d, o->a, io_join(o->a, o->base, path), MAX_INDEX, src)) return false;
    const Json *root = json_parse(o->d, o->a, src);
    if (!root) return false;
    if (root->kind != JSON_OBJECT)
        return diag_error(o->d, E_JSON_TYPE, json_loc(src, root),
                          "the index is %s, expected an object", json_kind_name(root->kind));
    const Json *map = json_need(o->d, src, root, "weight_map", JSON_OBJECT);
    if (!map) return false;
    Arena tmp = {0};
    bool ok = open_shards(o, &tmp, io_dirname(o->a, path), src, map);
    arena_free(&tmp);
    return ok;
}

/* ---- folders ---- */

static bool open_only_gguf(Opener *o, const char *path, const char *full)
{
    DIR *dir = opendir(full);
    if (!dir)
        return diag_error(o->d, E_FILE_READ, LOC_WHAT(full), "cannot read the folder: %s",
                          strerror(errno));
    const char *found = NULL;
    u32 n = 0;
    for (struct dirent *e; (e = readdir(dir));)
        if (ends_with(e->d_name, ".gguf") && n++ == 0)
            found = arena_strdup(o->a, e->d_name, strlen(e->d_name));
    closedir(dir);
    if (n == 1) return open_path(o, io_join(o->a, path, found));
    if (n)
        return diag_error(o->d, E_FILE_READ, LOC_WHAT(full),
                          "the folder holds %u .gguf files; name the one to use", n);
    return diag_error(
        o->d, E_FILE_READ, LOC_WHAT(full),
        "the folder holds no model.safetensors, model.safetensors.index.json or .gguf file");
}

static bool open_any(Opener *o, const char *path)
{
    char *full = io_join(o->a, o->base, path);
    if (!io_is_dir(full))
        return ends_with(path, ".json") ? open_index(o, path) : open_path(o, path);
    if (io_exists(io_join(o->a, full, "model.safetensors.index.json")))
        return open_index(o, io_join(o->a, path, "model.safetensors.index.json"));
    if (io_exists(io_join(o->a, full, "model.safetensors")))
        return open_path(o, io_join(o->a, path, "model.safetensors"));
    return open_only_gguf(o, path, full);
}

/* ---- one view ---- */

static const CkTensor *tensors_of(const CkFile *f, u32 *n)
{
    *n = f->st ? f->st->n_tensors : f->gguf->n_tensors;
    return f->st ? f->st->tensor : f->gguf->tensor;
}

static bool add_tensors(Opener *o, Checkpoint *ck)
{
    u64 total = 0;
    u32 n = 0;
    for (u32 i = 0; i < ck->n_files; i++)
        tensors_of(&ck->file[i], &n), total += n;
    if (total > CK_MAX_TENSORS)
        return diag_error(o->d, E_LIMIT, LOC_NONE, "%llu tensors, more than the limit of %d",
                          (unsigned long long)total, CK_MAX_TENSORS);
    ck->used = NEWN(o->a, u8, total);
    CkTensor *all = ck->n_files > 1 ? NEWN(o->a, CkTensor, total) : NULL;
    ck->tensor = all ? all : ck->n_files ? tensors_of(&ck->file[0], &n) : NULL;
    for (u32 i = 0; i < ck->n_files; i++) {
        const CkTensor *t = tensors_of(&ck->file[i], &n);
        for (u32 k = 0; k < n; k++, ck->n_tensors++) {
            bool added;
            u32 *at = map_put(&ck->index, t[k].name, &added);
            if (!added)
                return diag_error(o->d, E_FILE_FORMAT, LOC_WHAT(ck->file[i].map.name),
                                  "tensor '%s' is also in %s", ck_show(o->a, t[k].name),
                                  ck->file[ck->tensor[*at].file].map.name);
            *at = ck->n_tensors;
            if (!all) continue;
            all[ck->n_tensors] = t[k];
            all[ck->n_tensors].file = i;
        }
    }
    return true;
}

/* Writers of safetensors store tied tensors once and note the other names in __metadata__: {other
 * name: stored name}. */
static bool add_aliases(Opener *o, Checkpoint *ck)
{
    for (u32 i = 0; i < ck->n_files; i++) {
        const Safetensors *s = ck->file[i].st;
        for (u32 k = 0; s && k < s->n_meta; k++) {
            const u32 *target = map_get(&ck->index, s->meta[k].value);
            if (!target || !str_eq(ck->tensor[*target].name, s->meta[k].value))
                continue; /* an ordinary note, such as "format": "pt" */
            u32 stored = *target;
            bool added;
            u32 *at = map_put(&ck->index, s->meta[k].key, &added);
            if (added)
                *at = stored;
            else if (*at != stored)
                return diag_error(o->d, E_FILE_FORMAT, LOC_WHAT(ck->file[i].map.name),
                                  "\"__metadata__\" makes '%s' another name of '%s', but it is the "
                                  "name of other data",
                                  ck_show(o->a, s->meta[k].key), ck_show(o->a, s->meta[k].value));
        }
    }
    return true;
}

bool ck_open(Diag *d, Arena *a, const char *base_dir, const char *const *paths, u32 n,
             Checkpoint *out)
{
    Opener o = {.d = d, .a = a, .base = base_dir};
    bool ok = true;
    for (u32 i = 0; i < n; i++)
        ok &= open_any(&o, paths[i]);
    *out = (Checkpoint){.file = o.file.at, .n_files = o.file.n, .index = {.a = a}};
    return ok && add_tensors(&o, out) && add_aliases(&o, out);
}

void ck_close(Checkpoint *ck)
{
    for (u32 i = 0; i < ck->n_files; i++) {
        MappedFile m = ck->file[i].map;
        io_unmap(&m);
    }
    *ck = (Checkpoint){0};
}

const CkTensor *ck_find(const Checkpoint *ck, Str name)
{
    const u32 *i = map_get(&ck->index, name);
    return i ? &ck->tensor[*i] : NULL;
}

const CkTensor *ck_use(Checkpoint *ck, Str name)
{
    const CkTensor *t = ck_find(ck, name);
    if (t) ck->used[t - ck->tensor] = 1;
    return t;
}

const Gguf *ck_gguf(const Checkpoint *ck)
{
    for (u32 i = 0; i < ck->n_files; i++)
        if (ck->file[i].gguf) return ck->file[i].gguf;
    return NULL;
}

void ck_decode(const Checkpoint *ck, const CkTensor *t, u64 first, u64 count, float *out)
{
    enc_decode((EncId)t->enc, ck->file[t->file].map.data + t->offset, first, count, out);
}
