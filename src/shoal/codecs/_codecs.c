/* Compression of updates: selection, quantization, packing, entropy coding, counted random words.
 *
 * A job is one pass over `n` elements, cut into tiles. Threads call `run` on the same job, without
 * the GIL, and take the next tile until none is left. Every operation has its twin in portable.py,
 * which gives the same bits (compile with -ffp-contract=off): whoever changes one changes the
 * other, and VERSION here and in native.py.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define VERSION 2
#define JOB "shoal.codecs.job"
#define STREAM 16384 /* symbols of a Huffman stream */
#define WIDEST 12    /* bits of the longest Huffman code, and of the frequencies of ANS */
#define LONG 32768   /* symbols of a stream of ANS */
#define PIECE 1024   /* values whose random words are made at once; a multiple of 128 */

#if defined(__x86_64__) && defined(__GLIBC__) && \
    (defined(__clang__) ? __clang_major__ >= 17 : __GNUC__ >= 12)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#define INLINE static __forceinline
#define LOOSE
typedef volatile __int64 Counter;
#define TAKE_NEXT(counter) _InterlockedExchangeAdd64(&(counter), 1)
#else
#include <stdatomic.h>
#define INLINE static inline __attribute__((always_inline))
#define LOOSE __attribute__((may_alias)) /* floats are seen as integers, words as halves */
typedef _Atomic int64_t Counter;
#define TAKE_NEXT(counter) atomic_fetch_add_explicit(&(counter), 1, memory_order_relaxed)
#endif

typedef int32_t LOOSE i32;
typedef uint16_t LOOSE u16;

enum { BINS, BYTES, TAKE, QUANTIZE, PACK, UNPACK, ASSIGN, SIZES, HUFFMAN, UNHUFFMAN, WORDS, NORMALS,
       ANS, UNANS };
#define OPERATIONS 14
#define BUFFERS 5
#define NUMBERS 7
enum { LARGEST, EUCLIDEAN, AVERAGE }; /* what a block's scale is made of */

typedef struct {
    int op;
    int64_t n, tile;
    Counter next; /* the first tile that nobody has taken */
    int64_t a[NUMBERS];
    char *b[BUFFERS];
    int64_t bytes[BUFFERS];
    Py_buffer views[BUFFERS];
    int held;
} Job;

/* --- random words: Philox4x32-10 (Salmon et al. 2011), sixteen counters at once -------------- */

CLONES static void philox_any(uint64_t block, uint64_t key, uint64_t stream, uint32_t *out) {
    uint32_t c0[16], c1[16], c2[16], c3[16];
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int i = 0; i < 16; i++) {
        c0[i] = (uint32_t)(block + i);
        c1[i] = (uint32_t)((block + i) >> 32);
        c2[i] = (uint32_t)stream;
        c3[i] = (uint32_t)(stream >> 32);
    }
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < 16; i++) {
            uint64_t p = (uint64_t)0xD2511F53u * c0[i], q = (uint64_t)0xCD9E8D57u * c2[i];
            c0[i] = (uint32_t)(q >> 32) ^ c1[i] ^ k0;
            c1[i] = (uint32_t)q;
            c2[i] = (uint32_t)(p >> 32) ^ c3[i] ^ k1;
            c3[i] = (uint32_t)p;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < 16; i++) {
        out[4 * i] = c0[i];
        out[4 * i + 1] = c1[i];
        out[4 * i + 2] = c2[i];
        out[4 * i + 3] = c3[i];
    }
}


#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
/* The same, four counters in a register; the upper halves of its lanes hold what nobody reads. */
__attribute__((target("avx2"))) static void philox_avx2(uint64_t block, uint64_t key,
                                                        uint64_t stream, uint32_t *out) {
    const __m256i m0 = _mm256_set1_epi64x(0xD2511F53), m1 = _mm256_set1_epi64x(0xCD9E8D57);
    const __m256i low = _mm256_set1_epi64x(0xffffffff);
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    __m256i c0[4], c1[4], c2[4], c3[4];
    for (int i = 0; i < 4; i++) {
        c0[i] = _mm256_add_epi64(_mm256_set1_epi64x((int64_t)(block + 4 * i)),
                                 _mm256_set_epi64x(3, 2, 1, 0));
        c1[i] = _mm256_srli_epi64(c0[i], 32);
        c2[i] = _mm256_set1_epi64x((int64_t)stream);
        c3[i] = _mm256_set1_epi64x((int64_t)(stream >> 32));
    }
    for (int round = 0; round < 10; round++) {
        const __m256i a = _mm256_set1_epi64x(k0), b = _mm256_set1_epi64x(k1);
        for (int i = 0; i < 4; i++) {
            const __m256i p = _mm256_mul_epu32(c0[i], m0), q = _mm256_mul_epu32(c2[i], m1);
            c0[i] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(q, 32), c1[i]), a);
            c1[i] = q;
            c2[i] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p, 32), c3[i]), b);
            c3[i] = p;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < 4; i++) {
        const __m256i a = _mm256_or_si256(_mm256_and_si256(c0[i], low), _mm256_slli_epi64(c1[i], 32));
        const __m256i b = _mm256_or_si256(_mm256_and_si256(c2[i], low), _mm256_slli_epi64(c3[i], 32));
        const __m256i even = _mm256_unpacklo_epi64(a, b), odd = _mm256_unpackhi_epi64(a, b);
        _mm256_storeu_si256((__m256i *)(out + 16 * i), _mm256_permute2x128_si256(even, odd, 0x20));
        _mm256_storeu_si256((__m256i *)(out + 16 * i + 8), _mm256_permute2x128_si256(even, odd, 0x31));
    }
}
#define HAS_AVX2 __builtin_cpu_supports("avx2")
#else
#define philox_avx2 philox_any
#define HAS_AVX2 0
#endif
static void (*philox)(uint64_t, uint64_t, uint64_t, uint32_t *) = philox_any;

/* Words begin..end of a stream; tiles begin at multiples of 64 after `start`. */
CLONES static void words(const Job *j, int64_t begin, int64_t end) {
    uint32_t some[64], *out = (uint32_t *)j->b[0];
    const uint64_t key = (uint64_t)j->a[0], stream = (uint64_t)j->a[1], start = (uint64_t)j->a[2];
    for (int64_t i = begin; i < end;) {
        const uint64_t word = start + (uint64_t)i;
        philox(word / 4, key, stream, some);
        for (int at = word % 4; at < 64 && i < end; at++) out[i++] = some[at];
    }
}

/* The logarithm by additions, multiplications and one division, so that no libm decides on bits. */
INLINE double logarithm(double x) {
    uint64_t bits;
    memcpy(&bits, &x, 8);
    int64_t exponent = (int64_t)(bits >> 52) - 1022;
    bits = (bits & 0x000fffffffffffffu) | 0x3fe0000000000000u; /* 1/2 <= m < 1 */
    double m, s, q, sum = 0;
    memcpy(&m, &bits, 8);
    if (m < 0.70710678118654752) {
        m = m * 2;
        exponent -= 1;
    }
    s = (m - 1) / (m + 1);
    q = s * s;
    for (int odd = 23; odd > 1; odd -= 2) sum = (sum + 1.0 / odd) * q;
    return 2 * s * (1 + sum) + (double)exponent * 0.6931471805599453;
}

static const double NEAR_TOP[8] = {2.50908092873012267e+3, 3.34305755835881281e+4,
    6.72657709270087009e+4, 4.59219539315498715e+4, 1.37316937655094611e+4,
    1.97159095030655144e+3, 1.33141667891784377e+2, 3.38713287279636661e+0};
static const double NEAR_LOW[8] = {5.22649527885285456e+3, 2.87290857357219427e+4,
    3.93078958000927106e+4, 2.12137943015865959e+4, 5.39419602142475111e+3,
    6.87187007492057908e+2, 4.23133307016009113e+1, 1.0};
static const double FAR_TOP[8] = {7.74545014278341407e-4, 2.27238449892691846e-2,
    2.41780725177450612e-1, 1.27045825245236838e+0, 3.64784832476320461e+0,
    5.76949722146069141e+0, 4.63033784615654530e+0, 1.42343711074968358e+0};
static const double FAR_LOW[8] = {1.05075007164441684e-9, 5.47593808499534495e-4,
    1.51986665636164572e-2, 1.48103976427480075e-1, 6.89767334985100005e-1,
    1.67638483018380385e+0, 2.05319162663775882e+0, 1.0};
static const double TAIL_TOP[8] = {2.01033439929228813e-7, 2.71155556874348758e-5,
    1.24266094738807844e-3, 2.65321895265761230e-2, 2.96560571828504891e-1,
    1.78482653991729133e+0, 5.46378491116411437e+0, 6.65790464350110378e+0};
static const double TAIL_LOW[8] = {2.04426310338993979e-15, 1.42151175831644589e-7,
    1.84631831751005468e-5, 7.86869131145613259e-4, 1.48753612908506149e-2,
    1.36929880922735805e-1, 5.99832206555887938e-1, 1.0};

INLINE double ratio(const double *top, const double *low, double r) {
    double a = top[0], b = low[0];
    for (int i = 1; i < 8; i++) {
        a = a * r + top[i];
        b = b * r + low[i];
    }
    return a / b;
}

/* The standard normal quantile (Wichura 1988, AS 241) of (word + 1/2) / 2^32, far from the mean. */
static double far_quantile(uint32_t word) {
    const double p = ((double)word + 0.5) * 0x1p-32;
    const double r = sqrt(-logarithm(p < 0.5 ? p : 1 - p));
    const double x = r <= 5 ? ratio(FAR_TOP, FAR_LOW, r - 1.6) : ratio(TAIL_TOP, TAIL_LOW, r - 5);
    return p < 0.5 ? -x : x;
}

CLONES static void normals(const Job *j, int64_t begin, int64_t end) {
    uint32_t some[64];
    float z[64], *out = (float *)j->b[0];
    const uint64_t key = (uint64_t)j->a[0], stream = (uint64_t)j->a[1], start = (uint64_t)j->a[2];
    for (int64_t i = begin; i < end;) {
        const uint64_t word = start + (uint64_t)i;
        philox(word / 4, key, stream, some);
        for (int k = 0; k < 64; k++) {
            const double q = ((double)some[k] + 0.5) * 0x1p-32 - 0.5;
            z[k] = (float)(q * ratio(NEAR_TOP, NEAR_LOW, 0.180625 - q * q));
        }
        for (int k = 0; k < 64; k++)
            if (fabs(((double)some[k] + 0.5) * 0x1p-32 - 0.5) > 0.425)
                z[k] = (float)far_quantile(some[k]);
        for (int at = word % 4; at < 64 && i < end; at++) out[i++] = z[at];
    }
}

/* --- selection ------------------------------------------------------------------------------ */

/* How many values have which upper 16 bits, of 31 (without sign) or of 32; a row for each tile. */
CLONES static void bins(const Job *j, int64_t begin, int64_t end) {
    const uint32_t *x = (const uint32_t *)j->b[0], mask = (uint32_t)j->a[0];
    const int shift = (int)j->a[1];
    uint32_t *out = (uint32_t *)j->b[1] + begin / j->tile * 65536;
    for (int64_t i = begin; i < end; i++) out[(x[i] & mask) >> shift & 0xffff]++;
}

CLONES static void bytes(const Job *j, int64_t begin, int64_t end) {
    const uint8_t *x = (const uint8_t *)j->b[0];
    uint32_t *out = (uint32_t *)j->b[1] + begin / j->tile * 256, some[4][256];
    memset(some, 0, sizeof some); /* four, as one bin cannot be counted up twice in a cycle */
    int64_t i = begin;
    for (; i + 4 <= end; i += 4)
        for (int k = 0; k < 4; k++) some[k][x[i + k]]++;
    for (; i < end; i++) some[0][x[i]]++;
    for (int s = 0; s < 256; s++) out[s] = some[0][s] + some[1][s] + some[2][s] + some[3][s];
}

/* Indices of the values whose magnitude reaches a threshold, at most `room` for each tile. */
CLONES static void take(const Job *j, int64_t begin, int64_t end) {
    const i32 *x = (const i32 *)j->b[0], least = (int32_t)j->a[0];
    const int64_t room = j->a[1], tile = begin / j->tile;
    int32_t *out = (int32_t *)j->b[1] + tile * room;
    int64_t found = 0, i = begin;
    for (; i < end; i += 16) {
        const int64_t stop = i + 16 < end ? i + 16 : end;
        if (stop == i + 16) {
            int32_t top = 0;
            for (int k = 0; k < 16; k++) {
                const int32_t m = x[i + k] & 0x7fffffff;
                top = m > top ? m : top;
            }
            if (top < least) continue;
            if (found + 16 <= room) { /* without a branch that nobody could foretell */
                for (int k = 0; k < 16; k++) {
                    out[found] = (int32_t)(i + k);
                    found += (x[i + k] & 0x7fffffff) >= least;
                }
                continue;
            }
        }
        for (int64_t k = i; k < stop; k++)
            if ((x[k] & 0x7fffffff) >= least) {
                if (found < room) out[found] = (int32_t)k;
                found++;
            }
    }
    ((int64_t *)j->b[2])[tile] = found;
}

/* --- quantization --------------------------------------------------------------------------- */

/* A block's scale. Sums go over sixteen lanes in double precision, then pairwise over the lanes. */
INLINE float scale_of(const float *x, int64_t n, int kind, int64_t levels) {
    if (kind == LARGEST) {
        const i32 *bits = (const i32 *)x;
        int32_t top = 0;
        float most;
        for (int64_t i = 0; i < n; i++) {
            const int32_t m = bits[i] & 0x7fffffff;
            top = m > top ? m : top;
        }
        memcpy(&most, &top, 4);
        return most / (float)levels;
    }
    double lane[16] = {0};
    int64_t i = 0;
    if (kind == EUCLIDEAN) {
        for (; i + 16 <= n; i += 16)
            for (int k = 0; k < 16; k++) lane[k] += (double)x[i + k] * (double)x[i + k];
        for (int k = 0; i < n; i++, k++) lane[k] += (double)x[i] * (double)x[i];
    } else {
        for (; i + 16 <= n; i += 16)
            for (int k = 0; k < 16; k++) lane[k] += fabs((double)x[i + k]);
        for (int k = 0; i < n; i++, k++) lane[k] += fabs((double)x[i]);
    }
    for (int half = 8; half; half /= 2)
        for (int k = 0; k < half; k++) lane[k] += lane[k + half];
    return (float)(kind == EUCLIDEAN ? sqrt(lane[0]) / (double)levels : lane[0] / (double)n);
}

#define CODES(C, NAME)                                                                             \
    INLINE void NAME(const float *restrict x, C *restrict out, const u16 *restrict draws,          \
                     int64_t n, float scale, float levels, int onebit) {                           \
        if (onebit && !draws) {                                                                    \
            for (int64_t i = 0; i < n; i++) out[i] = x[i] < 0 ? -1 : 1;                            \
        } else if (!(scale > 0)) {                                                                 \
            for (int64_t i = 0; i < n; i++)                                                        \
                out[i] = onebit ? (draws[i] & 0x8000 ? -1 : 1) : 0;                                \
        } else if (onebit) {                                                                       \
            for (int64_t i = 0; i < n; i++) {                                                      \
                const float u = ((float)draws[i] + 0.5f) * 0x1p-16f;                               \
                out[i] = u < (x[i] / scale + 1.0f) * 0.5f ? 1 : -1;                                \
            }                                                                                      \
        } else if (draws) {                                                                        \
            for (int64_t i = 0; i < n; i++) {                                                      \
                const float r = x[i] / scale, u = ((float)draws[i] + 0.5f) * 0x1p-16f;             \
                float low = floorf(r);                                                             \
                low += u < r - low ? 1.0f : 0.0f;                                                  \
                low = low > levels ? levels : low;                                                 \
                out[i] = (C)(int32_t)(low < -levels ? -levels : low);                              \
            }                                                                                      \
        } else {                                                                                   \
            for (int64_t i = 0; i < n; i++) {                                                      \
                float r = x[i] / scale + 0x1.8p23f;                                                \
                r -= 0x1.8p23f;                                                                    \
                r = r > levels ? levels : r;                                                       \
                out[i] = (C)(int32_t)(r < -levels ? -levels : r);                                  \
            }                                                                                      \
        }                                                                                          \
    }
CODES(int8_t, codes8)
CODES(int16_t, codes16)

/* Tiles begin at multiples of the block and of 8, of whose values one counter serves. */
CLONES static void quantize(const Job *j, int64_t begin, int64_t end) {
    const float *x = (const float *)j->b[0];
    float *scales = (float *)j->b[2];
    const int64_t block = j->a[0], levels = j->a[1];
    const int kind = (int)j->a[2], stochastic = (int)j->a[3], onebit = levels == 1 && j->a[5];
    const uint64_t key = (uint64_t)j->a[4];
    const int wide = j->bytes[1] == 2 * j->n;
    uint32_t some[PIECE / 2];
    const u16 *draws = (const u16 *)some;
    for (int64_t i = begin; i < end; i += block)
        scales[i / block] = scale_of(x + i, i + block < end ? block : end - i, kind, levels);
    for (int64_t piece = begin; piece < end; piece += PIECE) {
        const int64_t stop = piece + PIECE < end ? piece + PIECE : end;
        if (stochastic)
            for (int k = 0; k < PIECE && piece + k < stop; k += 128)
                philox((uint64_t)(piece + k) / 8, key, 0, some + k / 2);
        for (int64_t i = piece, next; i < stop; i = next) {
            next = (i / block + 1) * block;
            if (next > stop) next = stop;
            const u16 *these = stochastic ? draws + (i - piece) : NULL;
            const float scale = scales[i / block];
            if (wide) codes16(x + i, (int16_t *)j->b[1] + i, these, next - i, scale, levels, onebit);
            else codes8(x + i, (int8_t *)j->b[1] + i, these, next - i, scale, levels, onebit);
        }
    }
}

CLONES static void assign(const Job *j, int64_t begin, int64_t end) {
    const float *x = (const float *)j->b[0], *t = (const float *)j->b[1];
    uint8_t *restrict out = (uint8_t *)j->b[2];
    const int m = (int)j->a[0];
    if (m > 16) {
        for (int64_t i = begin; i < end; i++) {
            int low = 0, high = m; /* the number of thresholds below x */
            while (low < high) {
                const int middle = (low + high) / 2;
                if (t[middle] < x[i]) low = middle + 1;
                else high = middle;
            }
            out[i] = (uint8_t)low;
        }
        return;
    }
    float limit[16];
    for (int k = 0; k < 16; k++) limit[k] = k < m ? t[k] : INFINITY;
    int64_t i = begin;
    for (; i + 64 <= end; i += 64) {
        int32_t some[64] = {0};
        for (int k = 0; k < m; k++)
            for (int l = 0; l < 64; l++) some[l] += x[i + l] > limit[k];
        for (int l = 0; l < 64; l++) out[i + l] = (uint8_t)some[l];
    }
    for (; i < end; i++) {
        int code = 0;
        for (int k = 0; k < m; k++) code += x[i] > limit[k];
        out[i] = (uint8_t)code;
    }
}

/* --- packing: codes of some bits, the first in the lowest; eight codes take `bits` bytes ------ */

INLINE uint64_t squeeze(uint64_t v, int bits) {
    const uint64_t a = 0x00ff00ff00ff00ffu, b = 0x0000ffff0000ffffu, c = 0xffffffffu;
    v = (v & a) | (v >> 8 & a) << bits;
    v = (v & b) | (v >> 16 & b) << 2 * bits;
    return bits == 8 ? v | 0 : (v & c) | (v >> 32) << 4 * bits;
}

INLINE uint64_t spread(uint64_t v, int bits) {
    const uint64_t one = (1u << bits) - 1, two = (1u << 2 * bits) - 1;
    const uint64_t four = bits == 8 ? 0xffffffffu : ((uint64_t)1 << 4 * bits) - 1;
    v = (v & four) | (v >> 4 * bits & four) << 32;
    v = (v & (two | two << 32)) | (v >> 2 * bits & (two | two << 32)) << 16;
    return (v & one * 0x0001000100010001u) | (v >> bits & one * 0x0001000100010001u) << 8;
}

INLINE uint64_t loaded(const uint8_t *from, int64_t most) {
    uint64_t v = 0;
    if (most >= 8) memcpy(&v, from, 8);
    else
        for (int64_t k = 0; k < most; k++) v |= (uint64_t)from[k] << 8 * k;
    return v;
}

INLINE void stored(uint8_t *to, uint64_t v, int64_t count) {
    for (int64_t k = 0; k < count; k++) to[k] = (uint8_t)(v >> 8 * k);
}

INLINE void pack_bits(const Job *j, int64_t begin, int64_t end, const int bits) {
    const uint8_t *x = (const uint8_t *)j->b[0];
    const int bias = (int)j->a[1], step = (int)j->a[2];
    uint8_t *out = (uint8_t *)j->b[1] + begin / 8 * bits;
    uint8_t *const last = (uint8_t *)j->b[1] + (end * bits + 7) / 8;
    uint8_t some[64];
    for (int64_t i = begin; i < end; i += 64) {
        const int64_t n = end - i < 64 ? end - i : 64;
        if (n == 64) {
            for (int k = 0; k < 64; k++) some[k] = (uint8_t)(x[i + k] + bias) >> step;
        } else {
            memset(some, 0, sizeof some);
            for (int64_t k = 0; k < n; k++) some[k] = (uint8_t)(x[i + k] + bias) >> step;
        }
        for (int64_t k = 0; k < n; k += 8, out += bits) {
            const uint64_t v = bits == 8 ? loaded(some + k, 8) : squeeze(loaded(some + k, 8), bits);
            if (last - out >= 8) memcpy(out, &v, 8);
            else stored(out, v, last - out < bits ? last - out : bits);
        }
    }
}

INLINE void unpack_bits(const Job *j, int64_t begin, int64_t end, const int bits) {
    const int bias = (int)j->a[1], step = (int)j->a[2];
    const uint8_t *in = (const uint8_t *)j->b[0] + begin / 8 * bits;
    const uint8_t *const last = (const uint8_t *)j->b[0] + j->bytes[0];
    uint8_t *out = (uint8_t *)j->b[1], some[64];
    for (int64_t i = begin; i < end; i += 64) {
        const int64_t n = end - i < 64 ? end - i : 64;
        for (int64_t k = 0; k < n; k += 8, in += bits) {
            uint64_t v = loaded(in, last - in);
            if (bits < 8) v = spread(v, bits);
            memcpy(some + k, &v, 8);
        }
        if (n == 64)
            for (int k = 0; k < 64; k++) out[i + k] = (uint8_t)((some[k] << step) - bias);
        else
            for (int64_t k = 0; k < n; k++) out[i + k] = (uint8_t)((some[k] << step) - bias);
    }
}

/* With the number of bits as a constant, so that shifts and loops are unrolled. */
#define EACH_WIDTH(F)                                                                              \
    switch (j->a[0]) {                                                                             \
    case 1: F(j, begin, end, 1); break;                                                            \
    case 2: F(j, begin, end, 2); break;                                                            \
    case 3: F(j, begin, end, 3); break;                                                            \
    case 4: F(j, begin, end, 4); break;                                                            \
    case 5: F(j, begin, end, 5); break;                                                            \
    case 6: F(j, begin, end, 6); break;                                                            \
    case 7: F(j, begin, end, 7); break;                                                            \
    case 8: F(j, begin, end, 8); break;                                                            \
    }
CLONES static void pack8(const Job *j, int64_t begin, int64_t end) { EACH_WIDTH(pack_bits) }
CLONES static void unpack8(const Job *j, int64_t begin, int64_t end) { EACH_WIDTH(unpack_bits) }

static void pack16(const Job *j, int64_t begin, int64_t end) {
    const uint16_t *x = (const uint16_t *)j->b[0];
    const int bits = (int)j->a[0], bias = (int)j->a[1];
    uint8_t *out = (uint8_t *)j->b[1] + begin / 8 * bits;
    uint32_t sum = 0;
    int held = 0;
    for (int64_t i = begin; i < end; i++) {
        sum |= (uint32_t)((x[i] + bias) & ((1 << bits) - 1)) << held;
        for (held += bits; held >= 8; held -= 8, sum >>= 8) *out++ = (uint8_t)sum;
    }
    if (held) *out = (uint8_t)sum;
}

static void unpack16(const Job *j, int64_t begin, int64_t end) {
    const int bits = (int)j->a[0], bias = (int)j->a[1];
    const uint8_t *in = (const uint8_t *)j->b[0] + begin / 8 * bits;
    uint16_t *out = (uint16_t *)j->b[1];
    uint32_t sum = 0;
    int held = 0;
    for (int64_t i = begin; i < end; i++) {
        for (; held < bits; held += 8) sum |= (uint32_t)*in++ << held;
        out[i] = (uint16_t)((sum & ((1u << bits) - 1)) - bias);
        sum >>= bits;
        held -= bits;
    }
}

/* --- Huffman coding: streams of STREAM symbols, the first bit of a code in the lowest bit ----- */

CLONES static void sizes(const Job *j, int64_t begin, int64_t end) {
    const uint8_t *x = (const uint8_t *)j->b[0];
    const uint32_t *codes = (const uint32_t *)j->b[1]; /* code, length << 16 */
    uint16_t *out = (uint16_t *)j->b[2];
    for (int64_t at = begin; at < end; at += STREAM) {
        const int64_t stop = at + STREAM < end ? at + STREAM : end;
        uint32_t sum[4] = {0};
        int64_t i = at;
        for (; i + 4 <= stop; i += 4)
            for (int k = 0; k < 4; k++) sum[k] += codes[x[i + k]] >> 16;
        for (; i < stop; i++) sum[0] += codes[x[i]] >> 16;
        out[at / STREAM] = (uint16_t)((sum[0] + sum[1] + sum[2] + sum[3] + 7) / 8);
    }
}

CLONES static void huffman(const Job *j, int64_t begin, int64_t end) {
    const uint8_t *x = (const uint8_t *)j->b[0];
    const uint32_t *codes = (const uint32_t *)j->b[1];
    const int64_t *offsets = (const int64_t *)j->b[2];
    for (int64_t at = begin; at < end; at += STREAM) {
        const int64_t stop = at + STREAM < end ? at + STREAM : end;
        uint8_t *out = (uint8_t *)j->b[3] + offsets[at / STREAM];
        uint8_t *const last = (uint8_t *)j->b[3] + offsets[at / STREAM + 1];
        uint64_t sum = 0;
        int held = 0;
        int64_t i = at;
        for (; i + 4 <= stop && last - out >= 8; i += 4) { /* 7 + 4 * WIDEST bits fit */
            for (int k = 0; k < 4; k++) {
                const uint32_t code = codes[x[i + k]];
                sum |= (uint64_t)(code & 0xffff) << held;
                held += code >> 16;
            }
            memcpy(out, &sum, 8);
            out += held >> 3;
            sum >>= held & ~7;
            held &= 7;
        }
        for (; i < stop; i++) {
            sum |= (uint64_t)(codes[x[i]] & 0xffff) << held;
            for (held += codes[x[i]] >> 16; held >= 8; held -= 8, sum >>= 8)
                if (out < last) *out++ = (uint8_t)sum;
        }
        if (held && out < last) *out = (uint8_t)sum;
    }
}

typedef struct {
    const uint8_t *in, *last;
    uint64_t bit; /* how many were read */
} Reader;

INLINE uint32_t next_symbol(Reader *r, const uint16_t *table) {
    const uint8_t *at = r->in + (r->bit >> 3);
    const uint64_t v = at < r->last ? loaded(at, r->last - at) : 0;
    const uint32_t entry = table[v >> (r->bit & 7) & ((1 << WIDEST) - 1)];
    r->bit += entry >> 8;
    return entry & 0xff;
}

/* Four symbols from eight bytes that are known to be there. */
INLINE void four(Reader *r, const uint16_t *table, uint8_t *out) {
    uint64_t v;
    memcpy(&v, r->in + (r->bit >> 3), 8);
    v >>= r->bit & 7;
    uint32_t used = 0;
    for (int k = 0; k < 4; k++) {
        const uint32_t entry = table[v >> used & ((1 << WIDEST) - 1)];
        out[k] = (uint8_t)entry;
        used += entry >> 8;
    }
    r->bit += used;
}

#define INSIDE(r) ((r).last - (r).in >= 8 && (int64_t)((r).bit >> 3) <= (r).last - (r).in - 8)

/* Tiles are four streams, which are read at once; a stream must end within its last byte. */
CLONES static void unhuffman(const Job *j, int64_t begin, int64_t end) {
    const uint16_t *table = (const uint16_t *)j->b[1];
    const int64_t *offsets = (const int64_t *)j->b[2];
    uint8_t *out = (uint8_t *)j->b[3], *bad = (uint8_t *)j->b[4];
    for (int64_t at = begin; at < end; at += 4 * STREAM) {
        const int64_t first = at / STREAM;
        Reader r[4];
        int64_t left[4], done = 0;
        int count = 0;
        for (; count < 4 && at + count * STREAM < end; count++) {
            r[count].in = (const uint8_t *)j->b[0] + offsets[first + count];
            r[count].last = (const uint8_t *)j->b[0] + offsets[first + count + 1];
            r[count].bit = 0;
            left[count] = end - at - count * STREAM;
            if (left[count] > STREAM) left[count] = STREAM;
        }
        if (count == 4)
            for (; done + 4 <= left[3]; done += 4) {
                if (!(INSIDE(r[0]) && INSIDE(r[1]) && INSIDE(r[2]) && INSIDE(r[3]))) break;
                for (int k = 0; k < 4; k++) four(r + k, table, out + at + k * STREAM + done);
            }
        for (int k = 0; k < count; k++) {
            int64_t i = done;
            uint8_t *to = out + at + k * STREAM;
            for (; i + 4 <= left[k] && INSIDE(r[k]); i += 4) four(r + k, table, to + i);
            for (; i < left[k]; i++) to[i] = (uint8_t)next_symbol(r + k, table);
            bad[first + k] = (int64_t)((r[k].bit + 7) / 8) != r[k].last - r[k].in;
        }
    }
}

/* --- asymmetric numeral systems: streams of LONG symbols, four states that take turns --------- */

/* Frequencies of 1/4096; a state lies in 2^16 .. 2^32 and gives or takes 16 bits. Written backwards,
 * so that it is read forwards: the states, then the words. */
static void ans(const Job *j, int64_t begin, int64_t end) {
    const uint8_t *x = (const uint8_t *)j->b[0];
    const uint32_t *table = (const uint32_t *)j->b[1]; /* frequency << 16, what lies before it */
    for (int64_t at = begin; at < end; at += LONG) {
        const int64_t n = end - at < LONG ? end - at : LONG, row = at / LONG;
        uint8_t *const last = (uint8_t *)j->b[2] + (row + 1) * (16 + 2 * LONG), *out = last;
        uint32_t s[4] = {1 << 16, 1 << 16, 1 << 16, 1 << 16};
        for (int64_t i = n; i-- > 0;) {
            const uint32_t entry = table[x[at + i]], f = entry >> 16 ? entry >> 16 : 1;
            uint32_t v = s[i & 3];
            if (v >> 20 >= f) {
                const uint16_t word = (uint16_t)v;
                out -= 2;
                memcpy(out, &word, 2);
                v >>= 16;
            }
            s[i & 3] = ((v / f) << WIDEST) + v % f + (entry & 0xffff);
        }
        out -= 16;
        memcpy(out, s, 16);
        ((uint32_t *)j->b[3])[row] = (uint32_t)(last - out);
    }
}

typedef struct {
    const uint8_t *in, *last;
    uint32_t s[4];
} States;

/* One symbol of a state; whoever calls has looked whether two bytes are there. */
INLINE uint8_t next_state(States *t, int lane, const uint32_t *table) {
    const uint32_t v = t->s[lane], entry = table[v & 4095];
    uint32_t w = (entry >> 20) * (v >> WIDEST) + (entry >> 8 & 4095);
    uint16_t word;
    memcpy(&word, t->in, 2);
    const uint32_t more = w < 65536;
    t->s[lane] = more ? w << 16 | word : w;
    t->in += 2 * more;
    return (uint8_t)entry;
}

/* The same near the end, where there may be no word; 0 if there had to be one. */
static int last_state(States *t, int lane, const uint32_t *table, uint8_t *out) {
    const uint32_t v = t->s[lane], entry = table[v & 4095];
    uint32_t w = (entry >> 20) * (v >> WIDEST) + (entry >> 8 & 4095);
    *out = (uint8_t)entry;
    if (w < 65536) {
        uint16_t word;
        if (t->last - t->in < 2) return 0;
        memcpy(&word, t->in, 2);
        w = w << 16 | word;
        t->in += 2;
    }
    t->s[lane] = w;
    return 1;
}

/* Tiles are two streams, which are read at once; each must end with its last byte, as it began. */
CLONES static void unans(const Job *j, int64_t begin, int64_t end) {
    const uint32_t *table = (const uint32_t *)j->b[1];
    const int64_t *offsets = (const int64_t *)j->b[2];
    uint8_t *out = (uint8_t *)j->b[3], *bad = (uint8_t *)j->b[4];
    States t[2];
    int64_t left[2] = {0, 0}, done = 0;
    const int64_t first = begin / LONG;
    for (int k = 0; k < 2 && begin + k * LONG < end; k++) {
        t[k].in = (const uint8_t *)j->b[0] + offsets[first + k];
        t[k].last = (const uint8_t *)j->b[0] + offsets[first + k + 1];
        left[k] = end - begin - k * LONG;
        if (left[k] > LONG) left[k] = LONG;
        bad[first + k] = t[k].last - t[k].in < 16;
        if (bad[first + k]) return;
        memcpy(t[k].s, t[k].in, 16);
        t[k].in += 16;
    }
    for (; done + 4 <= left[1]; done += 4) {
        if (t[0].last - t[0].in < 8 || t[1].last - t[1].in < 8) break;
        for (int lane = 0; lane < 4; lane++) {
            out[begin + done + lane] = next_state(t, lane, table);
            out[begin + LONG + done + lane] = next_state(t + 1, lane, table);
        }
    }
    for (int k = 0; k < 2 && left[k]; k++) {
        uint8_t *to = out + begin + k * LONG;
        int64_t i = done;
        for (; i + 4 <= left[k] && t[k].last - t[k].in >= 8; i += 4)
            for (int lane = 0; lane < 4; lane++) to[i + lane] = next_state(t + k, lane, table);
        int good = 1;
        for (; good && i < left[k]; i++) good = last_state(t + k, (int)(i & 3), table, to + i);
        for (int lane = 0; lane < 4; lane++) good = good && t[k].s[lane] == 1 << 16;
        bad[first + k] = !good || t[k].in != t[k].last;
    }
}

/* --- Python --------------------------------------------------------------------------------- */

static void work(const Job *j, int64_t begin, int64_t end) {
    switch (j->op) {
    case BINS: bins(j, begin, end); break;
    case BYTES: bytes(j, begin, end); break;
    case TAKE: take(j, begin, end); break;
    case QUANTIZE: quantize(j, begin, end); break;
    case PACK: (j->a[3] == 2 ? pack16 : pack8)(j, begin, end); break;
    case UNPACK: (j->a[3] == 2 ? unpack16 : unpack8)(j, begin, end); break;
    case ASSIGN: assign(j, begin, end); break;
    case SIZES: sizes(j, begin, end); break;
    case HUFFMAN: huffman(j, begin, end); break;
    case UNHUFFMAN: unhuffman(j, begin, end); break;
    case WORDS: words(j, begin, end); break;
    case NORMALS: normals(j, begin, end); break;
    case ANS: ans(j, begin, end); break;
    case UNANS: unans(j, begin, end); break;
    }
}

/* Offsets that rise from 0 to the length of the data. */
static int rising(const int64_t *offsets, int64_t count, int64_t length) {
    for (int64_t i = 0; i < count; i++)
        if (offsets[i] > offsets[i + 1]) return 0;
    return offsets[0] == 0 && offsets[count] == length;
}

/* Whether all buffers have the lengths that the loops rely on. */
static int fits(const Job *j) {
    const int64_t n = j->n, *a = j->a, *len = j->bytes;
    const int64_t tiles = (n + j->tile - 1) / j->tile, streams = (n + STREAM - 1) / STREAM;
    const int64_t longs = (n + LONG - 1) / LONG;
    switch (j->op) {
    case BINS: return len[0] == 4 * n && len[1] == tiles * 65536 * 4 && a[1] >= 0 && a[1] < 32;
    case BYTES: return len[0] == n && len[1] == tiles * 256 * 4;
    case TAKE:
        return n < 0x7fffffff && len[0] == 4 * n && a[1] >= 0 && len[1] == tiles * a[1] * 4 &&
               len[2] == tiles * 8;
    case QUANTIZE:
        return len[0] == 4 * n && (len[1] == n || len[1] == 2 * n) && a[0] > 0 && a[1] > 0 &&
               a[1] <= (len[1] == n ? 127 : 32767) && len[2] == (n + a[0] - 1) / a[0] * 4 &&
               j->tile % a[0] == 0 && j->tile % 8 == 0;
    case PACK:
    case UNPACK: {
        const int whole = j->op == UNPACK, width = (int)a[3];
        return (width == 1 || width == 2) && a[0] >= (width == 1 ? 1 : 9) && a[0] <= 8 * width &&
               a[2] >= 0 && a[2] < 8 && len[whole] == n * width &&
               len[1 - whole] == (n * a[0] + 7) / 8 && j->tile % 64 == 0;
    }
    case ASSIGN: return a[0] >= 0 && a[0] < 256 && len[0] == 4 * n && len[1] == 4 * a[0] && len[2] == n;
    case SIZES: return len[0] == n && len[1] == 1024 && len[2] == 2 * streams && j->tile % STREAM == 0;
    case HUFFMAN:
        return len[0] == n && len[1] == 1024 && len[2] == 8 * (streams + 1) &&
               j->tile % STREAM == 0 && rising((const int64_t *)j->b[2], streams, len[3]);
    case UNHUFFMAN:
        return len[1] == 2 << WIDEST && len[2] == 8 * (streams + 1) && len[3] == n &&
               len[4] == streams && j->tile % (4 * STREAM) == 0 &&
               rising((const int64_t *)j->b[2], streams, len[0]);
    case WORDS:
    case NORMALS: return len[0] == 4 * n;
    case ANS:
        return len[0] == n && len[1] == 1024 && len[2] == longs * (16 + 2 * LONG) &&
               len[3] == 4 * longs && j->tile % LONG == 0;
    case UNANS:
        return len[1] == 4 << WIDEST && len[2] == 8 * (longs + 1) && len[3] == n &&
               len[4] == longs && j->tile == 2 * LONG &&
               rising((const int64_t *)j->b[2], longs, len[0]);
    }
    return 0;
}

static void free_job(PyObject *capsule) {
    Job *job = PyCapsule_GetPointer(capsule, JOB);
    for (int i = 0; i < job->held; i++)
        if (job->views[i].obj) PyBuffer_Release(job->views + i);
    PyMem_Free(job);
}

/* The first buffer that each operation writes; those before are read. */
static const int WRITES[OPERATIONS] = {1, 1, 1, 1, 1, 1, 2, 2, 3, 3, 0, 0, 2, 3};

/* prepare(op, n, tile, buffers, numbers) -> job; numbers beyond 2^63 wrap around */
static PyObject *prepare(PyObject *self, PyObject *args) {
    int op;
    long long n, tile;
    PyObject *buffers, *numbers;
    if (!PyArg_ParseTuple(args, "iLLO!O!", &op, &n, &tile, &PyTuple_Type, &buffers, &PyTuple_Type,
                          &numbers))
        return NULL;
    const Py_ssize_t many = PyTuple_Size(buffers), more = PyTuple_Size(numbers);
    if (op < 0 || op >= OPERATIONS || n < 0 || n > (int64_t)1 << 48 || tile < 1 ||
        many > BUFFERS || more > NUMBERS) {
        PyErr_SetString(PyExc_ValueError, "no such job");
        return NULL;
    }
    Job *job = PyMem_Calloc(1, sizeof(Job));
    if (!job) return PyErr_NoMemory();
    PyObject *capsule = PyCapsule_New(job, JOB, free_job);
    if (!capsule) {
        PyMem_Free(job);
        return NULL;
    }
    job->op = op;
    job->n = n;
    job->tile = tile;
    for (Py_ssize_t i = 0; i < more; i++) {
        job->a[i] = (int64_t)PyLong_AsUnsignedLongLongMask(PyTuple_GetItem(numbers, i));
        if (job->a[i] == -1 && PyErr_Occurred()) goto failed;
    }
    for (Py_ssize_t i = 0; i < many; i++) {
        const int flags = i >= WRITES[op] ? PyBUF_WRITABLE : PyBUF_SIMPLE;
        if (PyObject_GetBuffer(PyTuple_GetItem(buffers, i), job->views + i, flags) < 0) goto failed;
        job->held++;
        job->b[i] = job->views[i].buf;
        job->bytes[i] = job->views[i].len;
    }
    if (fits(job)) return capsule;
    PyErr_SetString(PyExc_ValueError, "buffers that do not fit the operation");
failed:
    Py_DECREF(capsule);
    return NULL;
}

/* run(job): work on tiles until none is left; any number of threads may. */
static PyObject *run(PyObject *self, PyObject *capsule) {
    Job *job = PyCapsule_GetPointer(capsule, JOB);
    if (!job) return NULL;
    Py_BEGIN_ALLOW_THREADS
    const int64_t tiles = (job->n + job->tile - 1) / job->tile;
    for (int64_t t; (t = TAKE_NEXT(job->next)) < tiles;) {
        const int64_t begin = t * job->tile, left = job->n - begin;
        work(job, begin, begin + (left < job->tile ? left : job->tile));
    }
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"prepare", prepare, METH_VARARGS, "prepare(op, n, tile, buffers, numbers)"},
    {"run", run, METH_O, "run(job): take tiles until none is left."},
    {NULL, NULL, 0, NULL},
};

static int execute(PyObject *module) {
    if (HAS_AVX2) philox = philox_avx2;
    return PyModule_AddIntConstant(module, "VERSION", VERSION);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)execute}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "shoal.codecs._codecs", NULL, 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__codecs(void) { return PyModuleDef_Init(&definition); }
