// Vectors of float and the few functions the scan needs, by the compiler's vector extensions
// (GCC and Clang): the same source becomes SSE2, AVX2, AVX-512 or NEON code.
//
// Everything is in an unnamed namespace and nothing of the standard library is instantiated:
// this is compiled once per instruction set, and a linker must not share a function between them.
#pragma once
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float vfloat __attribute__((vector_size(kLanes * 4)));
typedef int32_t vint __attribute__((vector_size(kLanes * 4)));

#ifndef SCAN2D_INLINE  // a build for sanitizers leaves calls what they are
#define SCAN2D_INLINE inline __attribute__((always_inline))
#endif
#define SCAN2D_NOINLINE __attribute__((noinline))

SCAN2D_INLINE vfloat splat(float value) { return value - vfloat{}; }

SCAN2D_INLINE vfloat load(const float* from) {
    vfloat v;
    memcpy(&v, from, sizeof v);
    return v;
}

SCAN2D_INLINE void store(float* to, vfloat v) { memcpy(to, &v, sizeof v); }

// Whether all lanes are equal numbers.
SCAN2D_INLINE bool all_equal(vfloat a, vfloat b) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ) == 0xffff;
#elif defined(__AVX2__)
    return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)) == 0xff;
#elif defined(__SSE2__)
    return _mm_movemask_ps(_mm_cmpeq_ps(a, b)) == 0xf;
#else
    const vint equal = a == b;
    bool all = true;
    for (int k = 0; k < kLanes; ++k) all = all && equal[k];
    return all;
#endif
}

// Of a part with fewer channels than lanes, the lanes beyond are zero and never written.
template <bool kFull>
SCAN2D_INLINE vfloat load_channels(const float* from, int lanes) {
    if (kFull) return load(from);
    vfloat v{};
    for (int k = 0; k < lanes; ++k) v[k] = from[k];
    return v;
}

template <bool kFull>
SCAN2D_INLINE void store_channels(float* to, vfloat v, int lanes) {
    if (kFull) return store(to, v);
    for (int k = 0; k < lanes; ++k) to[k] = v[k];
}

// Of a NaN, the NaN. Compilers do not find the instruction for this order of operands themselves.
SCAN2D_INLINE vfloat clamp(vfloat t, float low, float high) {
#if defined(__AVX512F__)
    return _mm512_min_ps(splat(high), _mm512_max_ps(splat(low), t));
#elif defined(__AVX2__)
    return _mm256_min_ps(splat(high), _mm256_max_ps(splat(low), t));
#elif defined(__SSE2__)
    return _mm_min_ps(splat(high), _mm_max_ps(splat(low), t));
#else
    t = t < splat(low) ? splat(low) : t;
    return t > splat(high) ? splat(high) : t;
#endif
}

// 2**t of kCount vectors at once, so that their long chains of operations overlap.
//
// Relative error at most 1.6e-7; exactly 1 at 0; 0 below 2**-126.5; infinite from 2**127.5; NaN
// stays NaN. Adding 1.5 * 2**23 rounds t to an integer that then sits in the low bits of the sum,
// from where a shift by 23 takes it into the exponent. The polynomial is the minimax fit of degree
// 5 on [-1/2, 1/2] that is exact at 0, so that slow decays are not biased.
template <int kCount>
SCAN2D_INLINE void exp2_all(vfloat* t) {
    vfloat shifted[kCount], p[kCount];
#define SCAN2D_EACH _Pragma("GCC unroll 8") for (int k = 0; k < kCount; ++k)
    SCAN2D_EACH t[k] = clamp(t[k], -127.f, 128.f);
    SCAN2D_EACH shifted[k] = t[k] + splat(12582912.f);
    SCAN2D_EACH t[k] = t[k] - (shifted[k] - splat(12582912.f));
    SCAN2D_EACH p[k] = splat(1.326472722e-03f) * t[k] + splat(9.671512700e-03f);
    SCAN2D_EACH p[k] = p[k] * t[k] + splat(5.550733744e-02f);
    SCAN2D_EACH p[k] = p[k] * t[k] + splat(2.402224208e-01f);
    SCAN2D_EACH p[k] = p[k] * t[k] + splat(6.931469776e-01f);
    SCAN2D_EACH p[k] = p[k] * t[k] + splat(1.f);
    SCAN2D_EACH {
        vint bits;
        memcpy(&bits, &shifted[k], sizeof bits);
        bits = (bits << 23) + 0x3f800000;
        memcpy(&shifted[k], &bits, sizeof bits);
    }
    SCAN2D_EACH t[k] = p[k] * shifted[k];
#undef SCAN2D_EACH
}

constexpr float kLog2E = 1.44269504088896341f;

// 1 / (1 + exp(-t)), of kCount vectors in place.
template <int kCount>
SCAN2D_INLINE void sigmoid_all(vfloat* t) {
    for (int k = 0; k < kCount; ++k) t[k] = t[k] * splat(-kLog2E);
    exp2_all<kCount>(t);
    for (int k = 0; k < kCount; ++k) t[k] = splat(1.f) / (splat(1.f) + t[k]);
}

// log(1 + exp(t)), of kCount vectors in place; t itself above 20, as torch has it. With
// u = exp(-|t|) in (0, 1], log(1 + u) / u is a minimax polynomial: small results keep their
// relative accuracy. kSlope also gives the derivative, the sigmoid of t; above 20 it is exactly 1.
template <int kCount, bool kSlope>
SCAN2D_INLINE void softplus_all(vfloat* t, vfloat* slope) {
    vfloat exps[kCount];
    for (int k = 0; k < kCount; ++k)
        exps[k] = (t[k] > splat(0.f) ? -t[k] : t[k]) * splat(kLog2E);
    exp2_all<kCount>(exps);
    for (int k = 0; k < kCount; ++k) {
        const vfloat u = exps[k];
        vfloat p = splat(-3.244025374e-03f);
        p = p * u + splat(1.985146517e-02f);
        p = p * u + splat(-5.695954368e-02f);
        p = p * u + splat(1.060365634e-01f);
        p = p * u + splat(-1.530559380e-01f);
        p = p * u + splat(1.967593986e-01f);
        p = p * u + splat(-2.495413382e-01f);
        p = p * u + splat(3.332996244e-01f);
        p = p * u + splat(-4.999990242e-01f);
        p = p * u + splat(9.999999953e-01f);
        const vfloat sum = (t[k] > splat(0.f) ? t[k] : splat(0.f)) + p * u;
        if (kSlope) slope[k] = (t[k] > splat(0.f) ? splat(1.f) : u) / (splat(1.f) + u);
        t[k] = t[k] > splat(20.f) ? t[k] : sum;
    }
}

// All work on runs of any length in fours, up to three beyond the end.
constexpr int kFour = 4;

SCAN2D_INLINE void sigmoid_run(vfloat* t, int count) {
    for (int k = 0; k < count; k += kFour) sigmoid_all<kFour>(t + k);
}

SCAN2D_INLINE void softplus_run(vfloat* t, int count) {
    for (int k = 0; k < count; k += kFour) softplus_all<kFour, false>(t + k, nullptr);
}

SCAN2D_INLINE void softplus_and_slope_run(vfloat* t, vfloat* slope, int count) {
    for (int k = 0; k < count; k += kFour) softplus_all<kFour, true>(t + k, slope + k);
}

// Adds neighbouring lanes; of each four of the result, two come from a and two from b.
SCAN2D_INLINE vfloat add_pairs(vfloat a, vfloat b) {
#if defined(__AVX512F__)
    return __builtin_shufflevector(a, b, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30) +
           __builtin_shufflevector(a, b, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31);
#elif defined(__AVX2__)
    return __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14) +
           __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
#else
    return __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7);
#endif
}

typedef float vquad __attribute__((vector_size(16)));

// The sum over the lanes of each of four vectors.
SCAN2D_INLINE vquad sums_of(const vfloat* v) {
    const vfloat quads = add_pairs(add_pairs(v[0], v[1]), add_pairs(v[2], v[3]));
#define SCAN2D_QUAD(k) __builtin_shufflevector(quads, quads, 4 * k, 4 * k + 1, 4 * k + 2, 4 * k + 3)
#if defined(__AVX512F__)
    return (SCAN2D_QUAD(0) + SCAN2D_QUAD(1)) + (SCAN2D_QUAD(2) + SCAN2D_QUAD(3));
#elif defined(__AVX2__)
    return SCAN2D_QUAD(0) + SCAN2D_QUAD(1);
#else
    return quads;
#endif
#undef SCAN2D_QUAD
}

// Puts the sums over the lanes of the first kSome of four vectors into `to`, or adds them to it.
template <int kSome>
SCAN2D_INLINE void put_sums(const vfloat* v, float* to, bool add) {
    vquad sums = sums_of(v);
    if (kSome == 4) {
        vquad before;
        memcpy(&before, to, sizeof before);
        if (add) sums += before;
        memcpy(to, &sums, sizeof sums);
    } else
        for (int k = 0; k < kSome; ++k) to[k] = add ? to[k] + sums[k] : sums[k];
}

}  // namespace
