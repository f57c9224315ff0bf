// The relation loss of one relation head of one sequence, value and gradient.
//
// Logits are kept in powers of two, z_ij = log2(e) / sqrt(d) x_i . x_j. They are symmetric and z_ii >= 0, so rows need no
// shift of their own: E_ij = 2^(z_ij - shift) is symmetric too, one dot product and one exp serve both p_ij = E_ij / Z_i
// and p_ji = E_ij / Z_j, and only tiles on and above the diagonal are visited. S is the student's E, T the teacher's:
//
//   statistics   Z_i = sum_j E_ij;  cross_i = sum_j T_ij (zT_ij - zS_ij);  KL_i = ln2 cross_i / ZT_i + ln(ZS_i / ZT_i)
//   gradient     dx_i = c sum_j g_ij x_j;  g_ij = S_ij (1/ZS_i + 1/ZS_j) - T_ij (1/ZT_i + 1/ZT_j)
//
// The difference is formed before the product. Logits too large for a common shift go to `by_rows`, which is slower; what
// is not finite never gets here.
//
// Shapes: L tokens of a sequence, d channels of a head, W floats in a vector. Scratch is padded by zeros to `width` tokens
// (whole vectors) and `stride` channels (whole groups).

#pragma once

#include <cmath>
#include <initializer_list>

#include "vectors.h"

namespace {

constexpr float LOG2E = 1.44269504f, LN2 = 0.693147181f;
constexpr float HIGHEST = 86;    // of z - shift: a row's sums and cross stay finite; of shift: 1 / Z does
constexpr float PADDED = -1e37f; // the bias of columns that do not exist
constexpr int64_t KEPT = 1024;   // so many tokens at most have E kept from one pass to the next (half of 8 MB)

struct Model {
  int64_t channels, stride, width;
  float *rows;     // (width, stride), as they came
  float *columns;  // (channels, width), scaled to give z
  float *bias;     // (width)
  float *sums;     // (width) Z, then 1 / Z
  float *powers;   // E (width, width), or one tile of it (W, W)
};

// z - shift of rows i to i + N at the W columns from j.
template <int N>
inline void logits(const Model &m, int64_t i, int64_t j, Floats (&z)[N]) {
  for (int r = 0; r < N; r++) z[r] = at(m.bias + j);
  const float *row = m.rows + i * m.stride;
  float *column = m.columns + j;
  for (int64_t k = 0; k < m.channels; k++, row++, column += m.width) {
    for (int r = 0; r < N; r++) z[r] += row[r * m.stride] * at(column);
  }
}

struct Sums {  // of W rows, a vector each: what its W columns of every tile come to
  Floats student[W], teacher[W], cross[W];
};

// What rows i to i + N add to Z and cross: their own sums, and beyond the diagonal tile also those of the columns.
template <int N>
inline void add_rows(const Model &s, const Model &t, float *cross, int64_t i, Sums &sums, bool keep) {
  const int64_t diagonal = i / W * W;
  Floats sum_s[N] = {}, sum_t[N] = {}, sum_c[N] = {};
  for (int64_t j = diagonal; j < s.width; j += W) {
    Floats zs[N], zt[N], column_s = {}, column_t = {}, column_c = {};
    logits(s, i, j, zs), logits(t, i, j, zt);
    for (int r = 0; r < N; r++) {
      const Floats es = exp2_of(zs[r]), et = exp2_of(zt[r]), c = et * (zt[r] - zs[r]);
      sum_s[r] += es, sum_t[r] += et, sum_c[r] += c;
      column_s += es, column_t += et, column_c += c;
      if (keep) at(s.powers + (i + r) * s.width + j) = es, at(t.powers + (i + r) * s.width + j) = et;
    }
    if (j > diagonal) at(s.sums + j) += column_s, at(t.sums + j) += column_t, at(cross + j) += column_c;
  }
  for (int r = 0; r < N; r++) {
    sums.student[i % W + r] = sum_s[r], sums.teacher[i % W + r] = sum_t[r], sums.cross[i % W + r] = sum_c[r];
  }
}

inline Floats row_sums(Floats (&tile)[W]) {
  transpose(tile);
  Floats total = {};
  for (const Floats &column : tile) total += column;
  return total;
}

// Sum of KL_i. One log serves four rows: their ratios are at most 2^175 each, and a double holds 2^1023.
double statistics(const Model &s, const Model &t, float *cross, int64_t length, bool keep) {
  for (float *sums : {s.sums, t.sums, cross}) std::memset(sums, 0, s.width * sizeof(float));
  for (int64_t block = 0; block < length; block += W) {
    const int64_t end = length - block < W ? length : block + W;
    Sums sums = {};
    int64_t i = block;
    for (; i + ROWS <= end; i += ROWS) add_rows<ROWS>(s, t, cross, i, sums, keep);
    for (; i < end; i++) add_rows<1>(s, t, cross, i, sums, keep);
    at(s.sums + block) += row_sums(sums.student);
    at(t.sums + block) += row_sums(sums.teacher);
    at(cross + block) += row_sums(sums.cross);
  }
  double total = 0, ratios = 1;
  for (int64_t i = 0; i < length; i++) {
    total += LN2 * static_cast<double>(cross[i] / t.sums[i]);
    ratios *= static_cast<double>(s.sums[i]) / t.sums[i];
    if (i % 4 == 3 || i + 1 == length) total += std::log(ratios), ratios = 1;
  }
  return total;
}

// dx (stride, width) += rows^T g, for `count` rows and g (count, W), K channels at a time.
template <int K>
void add_product(float *dx, const Model &m, int64_t row, const Floats *g, int64_t count) {
  const float *x = m.rows + row * m.stride;
  for (int64_t k0 = 0; k0 < m.stride; k0 += K, x += K, dx += K * m.width) {
    Floats sums[K];
    for (int k = 0; k < K; k++) sums[k] = at(dx + k * m.width);
    for (int64_t r = 0; r < count; r++) {
      for (int k = 0; k < K; k++) sums[k] += x[r * m.stride + k] * g[r];
    }
    for (int k = 0; k < K; k++) at(dx + k * m.width) = sums[k];
  }
}

// E of the tile at (i, j), made again because it was not kept.
inline void make_tile(const Model &m, int64_t i, int64_t j) {
  for (int r = 0; r < W; r += ROWS) {
    Floats z[ROWS];
    logits(m, i + r, j, z);
    for (int q = 0; q < ROWS; q++) at(m.powers + (r + q) * W) = exp2_of(z[q]);
  }
}

template <int K>
void add_gradient(const Model &s, const Model &t, float *dx, int64_t length, bool keep) {
  const int64_t step = keep ? s.width : W;
  for (int64_t i = 0; i < length; i += W) {
    const int64_t count = length - i < W ? length - i : W;
    for (int64_t j = i; j < length; j += W) {
      if (!keep) make_tile(s, i, j), make_tile(t, i, j);
      float *es = s.powers + (keep ? i * step + j : 0), *et = t.powers + (keep ? i * step + j : 0);
      Floats g[W];
      for (int64_t r = 0; r < count; r++, es += step, et += step) {
        g[r] = rounded(at(es) * (s.sums[i + r] + at(s.sums + j))) - rounded(at(et) * (t.sums[i + r] + at(t.sums + j)));
      }
      add_product<K>(dx + j, s, i, g, count);
      if (j == i) continue;  // the diagonal tile holds both triangles
      transpose(g);
      add_product<K>(dx + i, s, j, g, W);
    }
  }
}

// z of row i, all columns, into `powers`; the largest is returned.
float row_logits(const Model &m, int64_t i) {
  Floats largest = Floats{} + PADDED;
  for (int64_t j = 0; j < m.width; j += W) {
    Floats z[1];
    logits(m, i, j, z);
    at(m.powers + j) = z[0];
    largest = z[0] > largest ? z[0] : largest;
  }
  float top = PADDED;
  for (int l = 0; l < W; l++) top = largest[l] > top ? largest[l] : top;
  return top;
}

// The same sums and gradient with a shift for each row, so no symmetry but that of the product: for logits of any size.
double by_rows(const Model &s, const Model &t, float *dx, int64_t length) {
  double total = 0;
  for (int64_t i = 0; i < length; i++) {
    const float top_s = row_logits(s, i), top_t = row_logits(t, i);
    Floats sum_s = {}, sum_t = {}, sum_c = {};
    for (int64_t j = 0; j < s.width; j += W) {
      const Floats zs = at(s.powers + j) - top_s, zt = at(t.powers + j) - top_t;
      const Floats es = exp2_of(zs), et = exp2_of(zt);
      sum_s += es, sum_t += et, sum_c += et * (zt - zs);
      at(s.powers + j) = es, at(t.powers + j) = et;
    }
    const float z_s = sum_of(sum_s), z_t = sum_of(sum_t);
    total += LN2 * static_cast<double>(sum_of(sum_c) / z_t) + std::log(static_cast<double>(z_s) / z_t);
    if (!dx) continue;
    const float scale = LN2 * std::sqrt(static_cast<float>(s.channels));  // undoes the columns'
    for (int64_t j = 0; j < s.width; j += W) {
      at(s.powers + j) = rounded(at(s.powers + j) * (1 / z_s)) - rounded(at(t.powers + j) * (1 / z_t));
    }
    for (int64_t k = 0; k < s.channels; k++) {
      Floats own = {};
      for (int64_t j = 0; j < s.width; j += W) {
        const Floats g = at(s.powers + j);
        at(dx + k * s.width + j) += s.rows[i * s.stride + k] * g;
        own += g * at(s.columns + k * s.width + j);
      }
      dx[k * s.width + i] += scale * sum_of(own);
    }
  }
  return total;
}

}  // namespace
