// Vectors of floats for whatever processor this is compiled on, in the vector extensions that GCC and Clang share.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

// ROWS tokens share a read of the columns, and up to GROUP channels a read of g: what the registers hold.
#if defined(__AVX512F__)
#define LOW_HALVES 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH_HALVES 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#define IN_REGISTER "+v"
constexpr int W = 16, ROWS = 4, GROUP = 16;
#elif defined(__AVX__)
#define LOW_HALVES 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH_HALVES 4, 12, 5, 13, 6, 14, 7, 15
#define IN_REGISTER "+x"
constexpr int W = 8, ROWS = 2, GROUP = 8;
#else
#define LOW_HALVES 0, 4, 1, 5
#define HIGH_HALVES 2, 6, 3, 7
#define IN_REGISTER "+m"
constexpr int W = 4, ROWS = 2, GROUP = 8;
#endif
typedef float Floats __attribute__((vector_size(4 * W), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * W), may_alias));

constexpr float LOWEST = -126; // the smallest normal power of two

inline Floats &at(float *p) { return *reinterpret_cast<Floats *>(p); }

// 2^z, to 1e-7 of itself.
inline Floats exp2_of(Floats z) {
#if defined(__AVX512F__)
  const Floats n = _mm512_roundscale_ps(z, 0);
#else
  z = z < LOWEST ? Floats{} + LOWEST : z;
  const Floats moved = z + 12582912.0f;  // 1.5 * 2^23: rounds to a whole number, which then stands in the low bits
  const Floats n = moved - 12582912.0f;
#endif
  const Floats f = z - n;
  Floats p = 0.0013276472f * f + 0.0096755410f;  // 2^f on [-1/2, 1/2], relative error 7.5e-8 (least squares, reweighted)
  p = p * f + 0.0555071309f;
  p = p * f + 0.2402212024f;
  p = p * f + 0.6931469440f;
  p = p * f + 1.0000001192f;
#if defined(__AVX512F__)
  return _mm512_scalef_ps(p, n);
#else
  return (Floats)((Ints)p + ((Ints)moved << 23));
#endif
}

// Keeps a product from being fused with the difference it enters: equal products must differ by 0.
inline Floats rounded(Floats product) {
  asm("" : IN_REGISTER(product));
  return product;
}

inline float sum_of(Floats v) {
  float total = 0;
  for (int l = 0; l < W; l++) total += v[l];
  return total;
}

inline Floats interleaved(Floats a, Floats b, bool high) {
#if defined(__clang__)
  return high ? __builtin_shufflevector(a, b, HIGH_HALVES) : __builtin_shufflevector(a, b, LOW_HALVES);
#else
  return high ? __builtin_shuffle(a, b, Ints{HIGH_HALVES}) : __builtin_shuffle(a, b, Ints{LOW_HALVES});
#endif
}

// log2(W) perfect shuffles of the tile's rows.
inline void transpose(Floats (&tile)[W]) {
  for (int round = 1; round < W; round *= 2) {
    Floats next[W];
    for (int r = 0; r < W; r++) next[r] = interleaved(tile[r / 2], tile[r / 2 + W / 2], r % 2);
    std::memcpy(tile, next, sizeof next);
  }
}

}  // namespace
