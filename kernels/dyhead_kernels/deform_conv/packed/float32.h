// Columns and matrix products in float32, with the compiler's vectors.

#pragma once

#include <cstring>

#include "corners.h"

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 12;
#elif defined(__AVX__)
constexpr int LANES = 8, ROWS = 6;
#elif defined(__aarch64__)
constexpr int LANES = 4, ROWS = 12;
#else
constexpr int LANES = 4, ROWS = 6;
#endif
constexpr int WIDTH = 2 * LANES;  // columns of a panel

typedef float Vector __attribute__((vector_size(LANES * sizeof(float))));
typedef float Unaligned __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));

inline Vector load(const float* at) { return *reinterpret_cast<const Unaligned*>(at); }
inline float widened(float value) { return value; }
inline void store(float* at, Vector value) { *reinterpret_cast<Unaligned*>(at) = value; }

// Factors (rows, depth) of a product, rows one after the other; TRANSPOSED means (depth, rows).
template <bool TRANSPOSED>
inline float at(const float* left, int64_t step, int64_t row, int64_t k) {
  return TRANSPOSED ? left[k * step + row] : left[row * step + k];
}

// out (N, WIDTH) = left (N, depth) . panel (depth, WIDTH), or added to what is there.
template <int N, bool TRANSPOSED>
void multiply_block(const float* __restrict left, int64_t step, const float* __restrict panel, int64_t depth,
                    float* __restrict out, int64_t out_step, bool add) {
  Vector sum[N][2];
#pragma GCC unroll 16
  for (int row = 0; row < N; ++row) {
    sum[row][0] = add ? load(out + row * out_step) : Vector{};
    sum[row][1] = add ? load(out + row * out_step + LANES) : Vector{};
  }
  for (int64_t k = 0; k < depth; ++k) {
    const Vector first = load(panel + k * WIDTH), second = load(panel + k * WIDTH + LANES);
#pragma GCC unroll 16
    for (int row = 0; row < N; ++row) {
      const float factor = at<TRANSPOSED>(left, step, row, k);
      sum[row][0] += factor * first;
      sum[row][1] += factor * second;
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < N; ++row) {
    store(out + row * out_step, sum[row][0]);
    store(out + row * out_step + LANES, sum[row][1]);
  }
}

template <int N, bool TRANSPOSED>
void multiply_rows(int rows, const float* left, int64_t step, const float* panel, int64_t depth, float* out,
                   int64_t out_step, bool add) {
  if constexpr (N > 0) {
    if (rows == N)
      multiply_block<N, TRANSPOSED>(left, step, panel, depth, out, out_step, add);
    else
      multiply_rows<N - 1, TRANSPOSED>(rows, left, step, panel, depth, out, out_step, add);
  }
}

// out (rows, columns) = left (rows, depth) . panels (panels, depth, WIDTH), or added to what is there.
template <bool TRANSPOSED>
void multiply(const float* left, int64_t step, int64_t rows, const float* panels, int64_t depth, float* out,
              int64_t out_step, int64_t columns, bool add) {
  alignas(64) float edge[ROWS * WIDTH] = {};
  for (int64_t panel = 0; panel * WIDTH < columns; ++panel) {
    const int64_t width = std::min<int64_t>(columns - panel * WIDTH, WIDTH);
    for (int64_t row = 0; row < rows; row += ROWS) {
      const int count = static_cast<int>(std::min<int64_t>(rows - row, ROWS));
      const float* from = TRANSPOSED ? left + row : left + row * step;
      const float* factor = panels + panel * depth * WIDTH;
      float* to = out + row * out_step + panel * WIDTH;
      if (width == WIDTH) {
        multiply_rows<ROWS, TRANSPOSED>(count, from, step, factor, depth, to, out_step, add);
        continue;
      }
      for (int each = 0; add && each < count; ++each)
        std::memcpy(edge + each * WIDTH, to + each * out_step, width * sizeof(float));
      multiply_rows<ROWS, TRANSPOSED>(count, from, step, factor, depth, edge, WIDTH, add);
      for (int each = 0; each < count; ++each)
        std::memcpy(to + each * out_step, edge + each * WIDTH, width * sizeof(float));
    }
  }
}

// to += weight * from
void add_row(float* to, const float* from, float weight, int64_t count) {
  int64_t index = 0;
  for (; index + LANES <= count; index += LANES) store(to + index, load(to + index) + weight * load(from + index));
  for (; index < count; ++index) to[index] += weight * from[index];
}

// Rows, matrix and output in float32. `Bfloat16` has the same members.
struct Float32 {
  typedef float Value;

  static constexpr int64_t BLOCK = TILE;         // positions that are blended before they are multiplied
  static constexpr int64_t WEIGHT_BLOCK = TILE;  // the same for the weights' gradients

  // Values from one row to the next of what is multiplied, and of so many rows of gradients copied into that form.
  static int64_t row_step(int64_t depth) { return depth; }
  static int64_t left_size(int64_t) { return 0; }
  // Values of a packed matrix.
  static int64_t panels_size(int64_t depth, int64_t columns) { return parts(columns, WIDTH) * depth * WIDTH; }
  // Values of a block's packed gradients: of none, they are read where they are.
  static int64_t gradients_size(int64_t) { return 0; }

  // (depth, columns) -> (panels, depth, WIDTH), zeros behind the last column.
  static void pack(const float* from, int64_t depth_step, int64_t column_step, int64_t depth, int64_t columns, float* to) {
    for (int64_t panel = 0; panel * WIDTH < columns; ++panel) {
      const int64_t width = std::min<int64_t>(columns - panel * WIDTH, WIDTH);
      const float* source = from + panel * WIDTH * column_step;
      for (int64_t k = 0; k < depth; ++k, source += depth_step, to += WIDTH) {
        for (int64_t lane = 0; lane < width; ++lane) to[lane] = source[lane * column_step];
        for (int64_t lane = width; lane < WIDTH; ++lane) to[lane] = 0.0f;
      }
    }
  }

  // All channels of a tap of one position, blended.
  static void blend(const Sampling& p, const Corners& corners, float* to) {
    blend_panels(p, corners, 0, p.channels, WIDTH, to);
  }

  // out (rows, columns) = left (rows, depth) . packed matrix (depth, columns), or added to what is there.
  static void multiply(const float* left, int64_t step, int64_t rows, const float* panels, int64_t depth, float* out,
                       int64_t out_step, int64_t columns, bool add) {
    ::multiply<false>(left, step, rows, panels, depth, out, out_step, columns, add);
  }

  // Rows of an output's gradient as the left side of a product.
  static const float* left_rows(const float* rows, int64_t, int64_t, float*) { return rows; }

  static void pack_gradients(const float*, int64_t, int64_t, float*) {}

  // out (out_channels, channels) += gradients (count, out_channels)^T . one tap's columns (count, channels).
  static void add_weights(const Sampling& p, int64_t first, int64_t count, int64_t tap, int64_t first_channel,
                          int64_t channels, const float* gradients, const float*, int64_t out_channels, float* columns,
                          float* out, int64_t out_step) {
    for (int64_t each = 0; each < count; ++each)
      blend_panels(p, Corners(p, first + each, tap), first_channel, channels, count * WIDTH, columns + each * WIDTH);
    ::multiply<true>(gradients, out_channels, out_channels, columns, count, out, out_step, channels, true);
  }

 private:
  // `channels` blended values from `first_channel` on, WIDTH of them at a time `panel_step` apart.
  static void blend_panels(const Sampling& p, const Corners& corners, int64_t first_channel, int64_t channels,
                           int64_t panel_step, float* to) {
    const float* at[4];
    for (int corner = 0; corner < 4; ++corner)
      at[corner] = static_cast<const float*>(p.rows) + corners.row[corner] * p.channels + first_channel;
    const float* w = corners.weight;
    for (int64_t panel = 0; panel < channels; panel += WIDTH, to += panel_step) {
      const int64_t end = std::min<int64_t>(channels, panel + WIDTH);
      int64_t c = panel;
      for (; c + LANES <= end; c += LANES)
        store(to + c - panel,
              w[0] * load(at[0] + c) + w[1] * load(at[1] + c) + w[2] * load(at[2] + c) + w[3] * load(at[3] + c));
      for (; c < end; ++c) to[c - panel] = w[0] * at[0][c] + w[1] * at[1][c] + w[2] * at[2][c] + w[3] * at[3][c];
    }
  }
};

}  // namespace
