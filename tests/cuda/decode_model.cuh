/* Models of the persistent decode step for tests: Llama's schedule with 4-bit weights, an 8-bit
 * head and a 4-bit cache, at shapes S. What pfqc emits has this form.
 *
 * S: layers, hidden, heads, kv_heads, D, ffn, base, outer, inner, vocab, o_parts, down_parts,
 * head_parts (of many rows),
 * prefix, kv, planes (of what linears read; 2: 16 bits), fixed (static scales of it), kv_fixed (of
 * the cache), rows, slots (of the ring), units, keep (tests read what the step would overwrite),
 * wait (false: no block waits for others, which computes nonsense but times the rest).
 */
#ifndef PFQC_TESTS_CUDA_DECODE_MODEL_CUH
#define PFQC_TESTS_CUDA_DECODE_MODEL_CUH

#include "codegen/cuda/decode.cuh"
#include "codegen/cuda/decode_attend_many.cuh"
#include "codegen/cuda/decode_ffn.cuh"
#include "codegen/cuda/decode_head.cuh"
#include "codegen/cuda/decode_norm.cuh"

/* Columns of the layer table. */
enum {
    W_QKV,
    W_O,
    W_GU,
    W_DOWN,
    W_HEAD,
    S_QKV,
    S_O,
    S_GU,
    S_DOWN,
    S_HEAD,
    X_QKV,
    X_O,
    X_GU,
    X_DOWN,
    CACHE_K,
    CACHE_V,
    Q_SCALE,
    K_SCALE,
    V_SCALE,
    PREFIX_K,
    PREFIX_V,
    KN_K,
    KN_V,
    KN_KM,
    KN_VM,
    N_COLUMNS
};
/* Entries of PfqDecodeArgs.at. */
enum { SUM_QKV = PFQ_AT_SUMS, SUM_O, SUM_GU, SUM_DOWN, SUM_HEAD };

template <class S> struct LlamaModel {
    static constexpr int32_t N = S::rows, format = PFQ_EMBED_ROWS; /* the tokens' rows */
    static constexpr float scale = 1.0f;
    PFQ_STATIC uint64_t address(const PfqDecodeArgs &a, int32_t i)
    {
        return ((const uint64_t *)a.at[PFQ_AT_TABLE])[i];
    }

    static constexpr int32_t layers = S::layers, columns = N_COLUMNS, hidden = S::hidden;
    static constexpr int32_t base = S::base, flight = S::flight;
    static constexpr int32_t slots = S::slots, units = S::units, rot = S::D, prefix = S::prefix;
    static constexpr int32_t rows = S::rows;
    static constexpr bool many = S::rows > PFQ_FEW;
    static constexpr int32_t most(int32_t a, int32_t b) { return a > b ? a : b; }
    static constexpr int32_t act =
        many ? most(most(S::planes * S::hidden, 2 * S::hidden / S::head_parts),
                    most(S::heads *S::D / S::o_parts, S::ffn / S::down_parts))
        : (S::rows == 1 || !S::fixed) && S::planes * S::ffn > 2 * S::hidden ? S::planes *S::ffn
                                                                            : 2 * S::hidden;
    static constexpr float rope_scale = 1.0f;
    static constexpr bool keep = S::keep, wait = S::wait, trace = S::trace;

    template <int32_t N_, int32_t K_, int32_t bits_, int32_t parts_, int32_t w_, int32_t sums_,
              int32_t scale_, int32_t planes_ = S::planes, int32_t words_ = 0>
    struct Linear {
        static constexpr int32_t N = N_, K = K_, bits = bits_, parts = parts_, w = w_, sums = sums_,
                                 scale = scale_, planes = planes_, plane = many ? K_ / parts_ : K_,
                                 words = words_;
        static constexpr bool apart = many && parts_ > 1;
        static constexpr bool twin = !words_ && w_ != W_HEAD;
        static constexpr bool fixed = S::fixed && w_ != W_HEAD;
    };
    typedef Linear<(S::heads + 2 * S::kv_heads) * S::D, S::hidden, 4, 1, W_QKV, SUM_QKV, S_QKV,
                   S::planes, S::words>
        Qkv;
    typedef Linear<S::hidden, S::heads * S::D, 4, S::o_parts, W_O, SUM_O, S_O> O;
    typedef Linear<2 * S::ffn, S::hidden, 4, 1, W_GU, SUM_GU, S_GU, S::planes, S::words> GateUp;
    typedef Linear<S::hidden, S::ffn, 4, S::down_parts, W_DOWN, SUM_DOWN, S_DOWN> Down;
    typedef Linear<S::vocab, S::hidden, 8, many ? S::head_parts : 1, W_HEAD, SUM_HEAD, S_HEAD, 2>
        Head;

    /* A quantiser of K columns with its scale at a column, if that is static. */
    template <int32_t at, int32_t dump_, class To, int32_t planes_ = S::planes> struct Quantiser {
        static constexpr bool fixed = S::fixed && at >= 0;
        static constexpr int32_t scale_at = at, lo = planes_ == 2 ? -32512 : -128,
                                 hi = planes_ == 2 ? 32512 : 127, planes = planes_,
                                 plane = To::plane, dump = dump_;
        static constexpr float clip = 1.0f, top = hi;
    };
    struct NormQkv : Quantiser<X_QKV, 0, Qkv> {
        typedef Down From;
        typedef Qkv To;
        static constexpr bool prior = true;
        static constexpr int32_t gain = -1;
        static constexpr float eps = 1e-5f;
    };
    struct NormGu : Quantiser<X_GU, 2, GateUp> {
        typedef O From;
        typedef GateUp To;
        static constexpr bool prior = false;
        static constexpr int32_t gain = -1;
        static constexpr float eps = 1e-5f;
    };
    struct NormHead : Quantiser<-1, 4, Head, 2> {
        typedef Down From;
        typedef Head To;
        static constexpr bool prior = false;
        static constexpr int32_t gain = -1;
        static constexpr float eps = 1e-5f;
    };
    struct Combine;
    struct Attend {
        typedef Qkv From;
        typedef Combine Out;
        static constexpr int32_t rows = S::rows, heads = S::heads, kv_heads = S::kv_heads, D = S::D,
                                 rot = S::D, prefix = S::prefix, q8 = 128, kv = S::kv, kv_lo = -8;
        static constexpr bool r3 = true, kv_static = S::kv_fixed;
        static constexpr float kv_top = 7.0f, kv_clip = 1.0f, score = 0.08838834764f, tiny = 0.0f;
        static constexpr int32_t cache = CACHE_K, numbers = KN_K, q_scale = Q_SCALE,
                                 k_scale = K_SCALE, v_scale = V_SCALE, q_gain = -1, k_gain = -1,
                                 prefix_k = PREFIX_K, prefix_v = PREFIX_V;
    };
    struct Combine : Quantiser<X_O, 1, O> {
        typedef Attend From;
        typedef O To;
    };
    struct Glu {
        typedef GateUp From;
        typedef Down To;
        static constexpr int32_t ffn = S::ffn, base = S::base, outer = S::outer, inner = S::inner,
                                 kind = PFQ_ACT_SILU;
        static constexpr float scale = S::glu_scale;
        static constexpr bool turn = true;
    };
    struct Mix : Quantiser<X_DOWN, 3, Down>, Glu {
        typedef Down To;
    };

    static constexpr int32_t scratch_attend = PfqAttend<Attend>::bytes;
    static constexpr int32_t scratch = scratch_attend > 32768 ? scratch_attend : 32768;

    /* The products alone: 1 on end, 2 with a meeting behind each. */
    template <class R> PFQ_STATIC void products(R &r)
    {
        for (int32_t l = 0; l < layers; l++) {
            r.layer(l);
            r.template gemv<Qkv>();
            if (S::what == 2) r.meet(), r.await();
            r.template gemv<O>();
            if (S::what == 2) r.meet(), r.await();
            r.template gemv<GateUp>();
            if (S::what == 2) r.meet(), r.await();
            r.template gemv<Down>();
            if (S::what == 2) r.meet(), r.await();
        }
        r.template gemv<Head>();
        r.meet();
        r.choose();
    }

    template <class R> PFQ_STATIC void schedule(R &r)
    {
        if (S::what) return products(r);
        r.template embed<LlamaModel>();
        for (int32_t l = 0; l < layers; l++) {
            r.layer(l);
            r.template norm<NormQkv>();
            if (l > 0) r.template clear<O>(l - 1);
            if (l > 0) r.template clear<GateUp>(l - 1);
            r.template gemv<Qkv>();
            r.template meet_for<Qkv>();
            r.template attend<Attend>();
            r.template combine<Combine>();
            r.template gemv<O>();
            r.meet();
            r.template norm<NormGu>();
            if (l > 0) r.template clear<Down>(l - 1);
            r.template clear<Qkv>(l);
            r.template gemv<GateUp>();
            r.template meet_for<GateUp>();
            r.template glu<Glu>();
            r.template mix<Mix>();
            r.template gemv<Down>();
            r.meet();
        }
        r.template norm<NormHead>();
        r.template clear<O>(layers - 1);
        r.template clear<GateUp>(layers - 1);
        r.template gemv<Head>();
        r.meet();
        r.template logits<Head>();
        r.template clear<Down>(layers - 1);
        r.meet();
        r.choose();
    }
};

/* ---- shapes ---- */

struct Llama8b {
    static constexpr int32_t layers = 32, hidden = 4096, heads = 32, kv_heads = 8, D = 128,
                             ffn = 14336, base = 28, outer = 28, inner = 512, vocab = 128256,
                             o_parts = 16, down_parts = 28, prefix = 2, kv = PFQ_KV_S4, slots = 16,
                             units = 40;
    static constexpr float glu_scale = 0.008351967f;
    static constexpr bool keep = false, wait = true, trace = false;
    static constexpr int32_t what = 0, flight = 6, words = 6, rows = 1, planes = 1, head_parts = 1;
    static constexpr bool fixed = true, kv_fixed = true;
};
struct Llama1b {
    static constexpr int32_t layers = 16, hidden = 2048, heads = 32, kv_heads = 8, D = 64,
                             ffn = 8192, base = 1, outer = 16, inner = 512, vocab = 128256,
                             o_parts = 8, down_parts = 16, prefix = 2, kv = PFQ_KV_S4, slots = 16,
                             units = 80;
    static constexpr float glu_scale = 0.011048543f;
    static constexpr bool keep = false, wait = true, trace = false;
    static constexpr int32_t what = 0, flight = 6, words = 6, rows = 1, planes = 1, head_parts = 1;
    static constexpr bool fixed = true, kv_fixed = true;
};
struct LlamaTiny {
    static constexpr int32_t layers = 2, hidden = 128, heads = 8, kv_heads = 4, D = 16, ffn = 384,
                             base = 12, outer = 12, inner = 32, vocab = 320, o_parts = 2,
                             down_parts = 6, prefix = 2, kv = PFQ_KV_S4, slots = 4, units = 16;
    static constexpr float glu_scale = 0.051031036f;
    static constexpr bool keep = false, wait = true, trace = false;
    static constexpr int32_t what = 0, flight = 6, words = 6, rows = 1, planes = 1, head_parts = 1;
    static constexpr bool fixed = true, kv_fixed = true;
};

#endif
