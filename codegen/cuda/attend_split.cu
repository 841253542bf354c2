/* attend, for rows that are sequences of their own: decoding, one or many sequences at a time, with
 * the keys of all sequences divided evenly over the blocks. Slots, formats and meaning are those of
 * codegen/cpu/attend.c; f16 and integer caches, head_dim 64 and 128.
 *
 * Launch: a persistent line of blocks of 4 warps, whatever T is. The tiles of all items
 * (attend_split_items.cuh), one after another, with DEC_COST empty ones in front of each, are cut
 * in gridDim.x runs of equal length (DEC_MIN tiles at least, so that a short context is not divided
 * further than it is worth). The warps of a block deal out its run's tiles, each with a ring of
 * DEC_STAGES tiles of shared memory that it fills by asynchronous copies, across the ends of items:
 * no barrier while it streams. What a warp makes of a tile is attend_split_tile.cuh's. At the end
 * of an item the warps' softmax states are added up; if other blocks have tiles of it, the state
 * goes to `work`, and the block that comes last (`sync` counts) adds them up in the order of the
 * keys. So results depend on T and the positions, not on timing. The prefix is one more state.
 *
 * PfqCudaArgs.alone: a row's result shall not depend on the rows beside it. An item is then cut in
 * parts by its own length (part_tiles), c_parts at most; a block takes those that begin in its run,
 * each whole, with a state of its own. That divides the work less evenly.
 *
 * Roofline: memory. Per byte of a KV4 cache some 3.2 instructions of a lane; all tensor work is
 * below 20 %.
 *
 *   work   2 * gridDim.x states, and alone T * kv heads * passes * c_parts: f32 [4 * NT][D],
 *          tops [4 * NT], sums [4 * NT]
 *   sync   int32 [T * kv heads * passes], 0 before and after
 *   c_tiles 0: out[0] as in attend.c; else tiles of so many rows (tiles.cuh) of s8, of
 *          bf16 if c_fmt is f32
 *
 * Tiles of keys that earlier phases wrote are asked for before the kernels in front of this one
 * have ended: all but the last of a sequence, which has the call's own key.
 *
 * ctx is a multiple of 64. T is at most 1024.
 */
#include "attend_split_tile.cuh"
#include "overlap.cuh"
#include "quantise.cuh"
#include "tiles.cuh"

PFQ_CONST(int32_t, c_fmt);
PFQ_CONST(int32_t, c_prefix);
PFQ_CONST(int32_t, c_tiles);

#ifndef DEC_STAGES
#define DEC_STAGES 3
#endif
#ifndef DEC_MIN
#define DEC_MIN 4
#endif
enum { DEC_WARPS = 4, DEC_THREADS = 32 * DEC_WARPS };

/* ---- shared memory ---- */

template <int D, int NT> struct Shape {
    enum {
        WIDE = 4 * NT,
        STATE = WIDE * D + 3 * WIDE, /* floats: o, tops, sums, minima */
        PROBS = NT * 8 * 16,         /* words of a warp's probabilities */
        PART = WIDE * D + 2 * WIDE   /* floats of a state in `work` */
    };
};

PFQ_DEVICE int32_t stage_bytes()
{
    return 2 * DEC_KEYS * (int32_t)kv_row() + (kv_scales() ? 4 * 2 * DEC_KEYS : 0);
}

template <int D, int NT> struct Block {
    const PfqCudaArgs *a;
    int32_t begin, end, chunk; /* its tiles; tiles of every block */
    uint8_t *ring;             /* of the warp */
    uint32_t *probs;           /* of the warp */
    float *states;             /* [DEC_WARPS + 1][STATE] */
    int32_t *n;                /* [T] */
    int32_t *last;             /* of the block: whether it is the last of an item */
};

/* ---- adding states ---- */

template <int D, int NT> PFQ_DEVICE float *tops_of(const Block<D, NT> &b, int32_t state)
{
    return b.states + state * Shape<D, NT>::STATE + Shape<D, NT>::WIDE * D;
}

/* The warp's state to shared memory: o with its unit, tops, sums, minima. */
template <int D, int NT>
PFQ_DEVICE void put_state(const Block<D, NT> &b, const Item &i, const State<D, NT> &s)
{
    const int32_t g = pfq_lane() >> 2, c = pfq_lane() & 3, e = c >> 1;
    float *o = b.states + pfq_warp() * Shape<D, NT>::STATE, *tops = tops_of(b, pfq_warp());
    float unit = 1.0f;
    if (kv_ints())
        unit = (kv_scales() ? s.v_top : ((const float *)b.a->aux[3])[i.kv]) / DEC_UNIT *
               (kv_nibbles() ? 0.0625f : 1.0f);
    PFQ_UNROLL
    for (int32_t nt = 0; nt < NT; nt++) {
        PFQ_UNROLL
        for (int32_t k = 0; k < D / 16; k++) {
            PFQ_UNROLL
            for (int32_t p = 0; p < 2; p++) {
                float v[2];
                PFQ_UNROLL
                for (int32_t half = 0; half < 2; half++) {
                    v[half] = s.o[nt][k][2 * half + p] + (float)s.ints[nt][k][2 * half + p];
                    if (kv_ints() && e == 0) v[half] *= 256.0f;
                    v[half] += __shfl_xor_sync(~0u, v[half], 2);
                }
                o[(4 * nt + 2 * (c & 1) + p) * D + D / 8 * g + 2 * k + e] =
                    (e ? v[1] : v[0]) * unit;
            }
        }
        PFQ_UNROLL
        for (int32_t p = 0; p < 2; p++) {
            const float sum = sum_of_keys(s.sum[nt][p]), minima = sum_of_keys(s.minima[nt][p]);
            if (g == 0 && e == 0) {
                const int32_t h = 4 * nt + 2 * c + p;
                tops[h] = s.top[nt][p];
                tops[4 * NT + h] = sum;
                tops[8 * NT + h] = minima;
            }
        }
    }
}

/* N halves at p, aligned to 2 * N bytes, as floats. */
template <int N> PFQ_DEVICE void halves_of(const uint16_t *p, float *x)
{
    uint32_t w[N / 2];
    load_words<N / 2>((const uint8_t *)p, w);
    PFQ_UNROLL
    for (int32_t i = 0; i < N; i++)
        x[i] = pfq_h_to_f((uint16_t)(w[i / 2] >> i % 2 * 16));
}

/* The prefix as a state of its own: a warp takes heads warp, warp + 4, a lane D / 32 columns; four
 * tokens at a time, so that their loads and sums overlap. */
template <int D, int NT> PFQ_DEVICE void put_prefix(const Block<D, NT> &b, const Item &i)
{
    enum { N = D / 32, AT_ONCE = 4 };
    const PfqCudaArgs &a = *b.a;
    const int32_t d = N * pfq_lane();
    float *tops = tops_of(b, DEC_WARPS);
    for (int32_t h = pfq_warp(); h < 4 * NT; h += DEC_WARPS) {
        const int32_t of = min(i.pass * 4 * NT + h, group() - 1),
                      col = (i.kv * group() + of) * D + d;
        float q[N], o[N], top = ATTEND_NONE, sum = 0.0f;
        const float scale = q_scale(a, i, of);
        PFQ_UNROLL
        for (int32_t k = 0; k < N; k++) {
            const uint8_t *row = (const uint8_t *)a.in[0];
            q[k] = c_q8 ? (float)(row[(int64_t)i.t * pfq_up(c_heads * D, 64) + col + k] - 128)
                        : ((const float *)row)[(int64_t)i.t * c_heads * D + col + k];
            q[k] *= scale;
            o[k] = 0.0f;
        }
        for (int32_t j = 0; j < c_prefix; j += AT_ONCE) {
            float x[AT_ONCE], v[AT_ONCE][N];
            PFQ_UNROLL
            for (int32_t n = 0; n < AT_ONCE; n++) {
                const int64_t at = ((int64_t)min(j + n, c_prefix - 1) * c_kv_heads + i.kv) * D + d;
                float y[N];
                halves_of<N>((const uint16_t *)a.aux[0] + at, y);
                halves_of<N>((const uint16_t *)a.aux[1] + at, v[n]);
                x[n] = 0.0f;
                PFQ_UNROLL
                for (int32_t k = 0; k < N; k++)
                    x[n] = fmaf(q[k], y[k], x[n]);
            }
            PFQ_UNROLL
            for (int32_t step = 16; step; step /= 2) {
                PFQ_UNROLL
                for (int32_t n = 0; n < AT_ONCE; n++)
                    x[n] += __shfl_xor_sync(~0u, x[n], step);
            }
            float above = top;
            PFQ_UNROLL
            for (int32_t n = 0; n < AT_ONCE; n++)
                above = fmaxf(above, x[n]);
            const float corr = pfq_exp2(top - above);
            top = above;
            sum *= corr;
            PFQ_UNROLL
            for (int32_t k = 0; k < N; k++)
                o[k] *= corr;
            PFQ_UNROLL
            for (int32_t n = 0; n < AT_ONCE; n++) {
                const float y = j + n < c_prefix ? pfq_exp2(x[n] - top) : 0.0f;
                sum += y;
                PFQ_UNROLL
                for (int32_t k = 0; k < N; k++)
                    o[k] = fmaf(y, v[n][k], o[k]);
            }
        }
        PFQ_UNROLL
        for (int32_t k = 0; k < N; k++)
            b.states[DEC_WARPS * Shape<D, NT>::STATE + h * D + d + k] = o[k];
        if (pfq_lane() == 0) {
            tops[h] = top;
            tops[4 * NT + h] = sum;
            tops[8 * NT + h] = 0.0f;
        }
    }
}

/* Columns d .. d + 3 of a head of row t, to out[0]. */
PFQ_DEVICE void put(const PfqCudaArgs &a, int32_t t, int32_t head, int32_t d, const float x[4],
                    float factor)
{
    const int32_t col = head * c_head_dim + d, K = c_heads * c_head_dim;
    if (c_fmt != PFQ_FMT_S8) {
        const PfqFour y = {{x[0] * factor, x[1] * factor, x[2] * factor, x[3] * factor}};
        if (c_tiles) {
            *(uint2 *)((uint8_t *)a.out[0] + pfq_tile_at(c_tiles, t, 2 * col)) =
                make_uint2(pfq_two_bf16(y.v[0], y.v[1]), pfq_two_bf16(y.v[2], y.v[3]));
            return;
        }
        *(PfqFour *)((float *)a.out[0] + (int64_t)t * K + col) = y;
        return;
    }
    const float inv = factor * pfq_inv(*(const float *)a.aux[5]);
    uint32_t w = 0;
    PFQ_UNROLL
    for (int32_t i = 0; i < 4; i++)
        w |= (uint32_t)(uint8_t)(pfq_quant(x[i], inv, c_qlo, c_qhi)) << 8 * i;
    if (!c_tiles) {
        *(uint32_t *)((uint8_t *)a.out[0] + (int64_t)t * pfq_up(K, 64) + col) = w ^ 0x80808080u;
        return;
    }
    uint8_t *out = (uint8_t *)a.out[0];
    *(uint32_t *)(out + pfq_tile_at(c_tiles, t, col)) = pfq_tiled(w);
    if (col + 4 == K) /* the columns of padding */
        for (int32_t k = K; k < pfq_up(K, 128); k += 4)
            *(uint32_t *)(out + pfq_tile_at(c_tiles, t, k)) = 0;
}

template <int NT> PFQ_DEVICE int32_t number_of(const Item &i)
{
    return (i.t * c_kv_heads + i.kv) * passes(4 * NT) + i.pass;
}

/* Where the state of the item's part k is in `work`. If blocks have equal runs, each has one of the
 * item that it begins with, and one of that it ends with. */
template <int D, int NT> PFQ_DEVICE float *part_of(const Block<D, NT> &b, const Item &i, int32_t k)
{
    const int32_t at =
        b.a->alone ? number_of<NT>(i) * c_parts + k : 2 * (i.base / b.chunk + k) + (k == 0);
    return (float *)b.a->work + (int64_t)at * Shape<D, NT>::PART;
}

/* The `parts` states of item i in the order of its keys, to out[0]; four at a time, so that their
 * loads overlap. */
template <int D, int NT>
PFQ_DEVICE void add_parts(const Block<D, NT> &b, const Item &i, int32_t parts)
{
    enum { AT_ONCE = 4 };
    const PfqCudaArgs &a = *b.a;
    const int32_t h0 = i.pass * 4 * NT, heads = min(4 * NT, group() - h0);
    for (int32_t at = 4 * (int32_t)threadIdx.x; at < heads * D; at += 4 * DEC_THREADS) {
        const int32_t h = at / D;
        float top = ATTEND_NONE, sum = 0.0f, o[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (int32_t p = 0; p < parts; p += AT_ONCE) {
            float tops[AT_ONCE], sums[AT_ONCE], above = top;
            PfqFour x[AT_ONCE];
            PFQ_UNROLL
            for (int32_t n = 0; n < AT_ONCE; n++) {
                const float *part = part_of<D, NT>(b, i, min(p + n, parts - 1));
                tops[n] = pfq_load_l2_one(part + 4 * NT * D + h);
                sums[n] = pfq_load_l2_one(part + 4 * NT * D + 4 * NT + h);
                x[n] = pfq_load_l2(part + at);
            }
            PFQ_UNROLL
            for (int32_t n = 0; n < AT_ONCE; n++)
                above = fmaxf(above, tops[n]);
            const float corr = pfq_exp2(top - above);
            top = above;
            sum *= corr;
            PFQ_UNROLL
            for (int32_t k = 0; k < 4; k++)
                o[k] *= corr;
            PFQ_UNROLL
            for (int32_t n = 0; n < AT_ONCE; n++) {
                const float y = p + n < parts ? pfq_exp2(tops[n] - top) : 0.0f;
                sum = fmaf(y, sums[n], sum);
                PFQ_UNROLL
                for (int32_t k = 0; k < 4; k++)
                    o[k] = fmaf(y, x[n].v[k], o[k]);
            }
        }
        put(a, i.t, i.kv * group() + h0 + h, at % D, o, 1.0f / sum);
    }
}

/* The states of the block's warps, and the prefix's if the part has the item's first tile, to the
 * result or to `work`. from: the part's first tile. */
template <int D, int NT>
PFQ_DEVICE void add_states(const Block<D, NT> &b, const Item &i, int32_t from)
{
    const PfqCudaArgs &a = *b.a;
    const int32_t size = a.alone ? part_tiles(i.n) : b.chunk, base = a.alone ? i.base : 0;
    const int32_t first = (i.base - base) / size,
                  parts = (i.base + i.n - 1 - base) / size - first + 1;
    const int32_t states = DEC_WARPS + (from == i.base && c_prefix > 0);
    const int32_t h0 = i.pass * 4 * NT, heads = min(4 * NT, group() - h0);
    for (int32_t at = 4 * (int32_t)threadIdx.x; at < heads * D; at += 4 * DEC_THREADS) {
        const int32_t h = at / D;
        float top = ATTEND_NONE, sum = 0.0f, o[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (int32_t w = 0; w < states; w++)
            top = fmaxf(top, tops_of(b, w)[h]);
        for (int32_t w = 0; w < states; w++) {
            const float *tops = tops_of(b, w), y = pfq_exp2(tops[h] - top);
            const float *x = b.states + w * Shape<D, NT>::STATE + at;
            sum = fmaf(y, tops[4 * NT + h], sum);
            PFQ_UNROLL
            for (int32_t k = 0; k < 4; k++)
                o[k] = fmaf(y, x[k] + tops[8 * NT + h], o[k]);
        }
        if (parts == 1) {
            put(a, i.t, i.kv * group() + h0 + h, at % D, o, 1.0f / sum);
            continue;
        }
        float *part = part_of<D, NT>(b, i, (from - base) / size - first);
        const PfqFour y = {{o[0], o[1], o[2], o[3]}};
        *(PfqFour *)(part + at) = y;
        if (at % D == 0) {
            part[4 * NT * D + h] = top;
            part[4 * NT * D + 4 * NT + h] = sum;
        }
    }
    if (parts == 1) return;
    int32_t *count = (int32_t *)a.sync + number_of<NT>(i);
    __syncthreads(); /* so that thread 0's release is that of all */
    if (threadIdx.x == 0) {
        *b.last = pfq_atomic_add_acq_rel(count, 1) == parts - 1;
        if (*b.last) *count = 0;
    }
    __syncthreads();
    if (*b.last) add_parts(b, i, parts);
}

/* ---- the whole ---- */

/* Where a warp is: in which part of an item, tiles from .. to of the line, and at which. */
struct Walk {
    Item i;
    int32_t from, to, at;
};

/* To the block's next part; false: there is none. */
template <int D, int NT> PFQ_DEVICE bool next_part(const Block<D, NT> &b, Walk &w)
{
    w.from = w.to;
    while (w.from >= min(w.i.base + w.i.n, b.end)) {
        if (w.i.base + w.i.n + DEC_COST >= b.end) return false;
        item_next(*b.a, w.i, 4 * NT);
        w.from = w.i.base;
    }
    w.to = min(w.i.base + w.i.n, b.a->alone ? w.from + part_tiles(w.i.n) : b.end);
    w.at = w.from + pfq_warp();
    return true;
}

/* To its first. */
template <int D, int NT> PFQ_DEVICE bool first_part(const Block<D, NT> &b, Walk &w)
{
    w.i = item_at(*b.a, b.n, b.begin, 4 * NT);
    w.to = max(w.i.base, b.begin);
    if (b.a->alone) w.to = w.i.base + pfq_up(w.to - w.i.base, part_tiles(w.i.n));
    return next_part(b, w);
}

/* To the warp's next tile; not live: there is none. */
template <int D, int NT> PFQ_DEVICE void settle(const Block<D, NT> &b, Walk &w, bool &live)
{
    while (live && w.at >= w.to)
        live = next_part(b, w);
}

template <int D, int NT>
PFQ_DEVICE void fill(const Block<D, NT> &b, Walk &w, bool &live, int32_t stage)
{
    settle(b, w, live);
    if (!live) {
        pfq_copy_commit();
        return;
    }
    load_tile(*b.a, w.i, w.at, b.ring + stage * stage_bytes());
    w.at += DEC_WARPS;
}

template <int D, int NT> PFQ_DEVICE void run(const Block<D, NT> &b)
{
    State<D, NT> s;
    Walk now, load;
    bool more = first_part(b, now), live = more;
    int32_t stage = 0;
    load = now;
    PFQ_UNROLL
    for (int32_t k = 0; k < DEC_STAGES - 1; k++) {
        settle(b, load, live);
        if (live && load.at == load.i.base + load.i.n - 1) pfq_follow();
        fill(b, load, live, k);
    }
    pfq_follow();
    while (more) {
        if (c_prefix > 0 && now.from == now.i.base)
            put_prefix(b, now.i); /* while the first tiles come */
        state_clear(s);
        load_queries(*b.a, now.i, s);
        for (; now.at < now.to; now.at += DEC_WARPS) {
            pfq_copy_wait<DEC_STAGES - 2>();
            __syncwarp();
            fill(b, load, live, stage == 0 ? DEC_STAGES - 1 : stage - 1);
            tile(now.i, s, now.at, b.ring + stage * stage_bytes(), b.probs);
            stage = stage + 1 == DEC_STAGES ? 0 : stage + 1;
        }
        put_state(b, now.i, s);
        __syncthreads();
        add_states(b, now.i, now.from);
        more = next_part(b, now);
        if (more) __syncthreads();
    }
    pfq_copy_wait<0>();
}

template <int D, int NT> PFQ_DEVICE void attend_split(const PfqCudaArgs &a)
{
    Block<D, NT> b;
    uint8_t *at = pfq_shared;
    b.a = &a;
    b.ring = at + pfq_warp() * DEC_STAGES * stage_bytes();
    at += DEC_WARPS * DEC_STAGES * stage_bytes();
    b.probs = (uint32_t *)at + pfq_warp() * Shape<D, NT>::PROBS;
    at += DEC_WARPS * Shape<D, NT>::PROBS * 4;
    b.states = (float *)at;
    at += (DEC_WARPS + 1) * Shape<D, NT>::STATE * 4;
    b.last = (int32_t *)at;
    b.n = b.last + 4;
    int32_t all = 0;
    if (a.T == 1) {
        all = tiles_of(pfq_row(a, 0).pos) + DEC_COST;
    } else {
        for (int32_t t = (int32_t)threadIdx.x; t < a.T; t += DEC_THREADS)
            b.n[t] = tiles_of(pfq_row(a, t).pos) + DEC_COST;
        __syncthreads();
        for (int32_t t = pfq_lane(); t < a.T; t += 32)
            all += b.n[t];
        all = __reduce_add_sync(~0u, all);
    }
    all *= c_kv_heads * passes(4 * NT);
    b.chunk = max((all + (int32_t)gridDim.x - 1) / (int32_t)gridDim.x, DEC_MIN);
    b.begin = (int32_t)blockIdx.x * b.chunk;
    b.end = min(b.begin + b.chunk, all);
    if (b.begin < b.end) run(b);
}

PFQ_KERNEL(pfq_cu_attend_split, 128)
{
    pfq_begin();
    if (c_head_dim == 64 && group() <= 4)
        attend_split<64, 1>(a);
    else if (c_head_dim == 64)
        attend_split<64, 2>(a);
    else if (group() <= 4)
        attend_split<128, 1>(a);
    else
        attend_split<128, 2>(a);
}
