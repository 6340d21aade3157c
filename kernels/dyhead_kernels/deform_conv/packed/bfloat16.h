// Columns and matrix products in bfloat16 with sums in float32, where the CPU multiplies pairs of bfloat16: in tiles (AMX)
// or as dot products (AVX512-BF16). Either takes numbers below float32's smallest normal one for zero.

#pragma once

#if defined(__AVX512BF16__) && defined(__AVX512VL__) && defined(__AVX512BW__) && defined(__linux__)
#define HAS_BFLOAT16

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "float32.h"

namespace {

struct Bfloat16 {
  uint16_t bits;
};

// Rows and columns of a block of a product; its depth is filled up to a multiple of it with zeros.
constexpr int64_t SIDE = 32;

inline int64_t filled(int64_t count) { return parts(count, SIDE) * SIDE; }
inline __mmask32 first_lanes(int64_t count) { return count >= SIDE ? ~0u : (1u << count) - 1; }

inline Vector load(const Bfloat16* at) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
  return (Vector)_mm512_slli_epi32(wide, 16);
}
inline float widened(Bfloat16 value) { return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(value.bits << 16))); }

// 32 channels in float32: those at even places and those at odd ones.
struct Halves {
  __m512 even, odd;
};

inline Halves split(__m512i pairs) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)), _mm512_castsi512_ps(_mm512_and_si512(pairs, upper))};
}

inline __m512i rounded(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

// The rows that one tap of one position blends.
class Blended {
 public:
  Blended(const Sampling& p, const Corners& corners, int64_t first_channel) {
    for (int corner = 0; corner < 4; ++corner) {
      at_[corner] = static_cast<const Bfloat16*>(p.rows) + corners.row[corner] * p.channels + first_channel;
      weight_[corner] = _mm512_set1_ps(corners.weight[corner]);
    }
  }

  // 32 channels from c on, of which some exist.
  Halves at(int64_t c, __mmask32 lanes) const {
    Halves sum = split(_mm512_maskz_loadu_epi16(lanes, at_[0] + c));
    sum.even = _mm512_mul_ps(weight_[0], sum.even), sum.odd = _mm512_mul_ps(weight_[0], sum.odd);
#pragma GCC unroll 3
    for (int corner = 1; corner < 4; ++corner) {
      const Halves row = split(_mm512_maskz_loadu_epi16(lanes, at_[corner] + c));
      sum.even = _mm512_fmadd_ps(weight_[corner], row.even, sum.even);
      sum.odd = _mm512_fmadd_ps(weight_[corner], row.odd, sum.odd);
    }
    return sum;
  }

 private:
  const Bfloat16* at_[4];
  __m512 weight_[4];
};

// Order in which 32 numbers are taken from one register or from two, whose numbers count on from 32.
struct Order {
  alignas(64) uint16_t at[32] = {};

  // The numbers from `first` on in turns with those from `second` on; by two: a number and the one 16 after it.
  constexpr Order(int first, int second, bool by_two = false) {
    for (int lane = 0; lane < 32; ++lane)
      at[lane] = static_cast<uint16_t>(by_two ? (lane & 2 ? second : first) + lane / 4 + lane % 2 * 16
                                              : (lane & 1 ? second : first) + lane / 2);
  }
  operator __m512i() const { return _mm512_load_si512(at); }
};

constexpr Order ALTERNATING(0, 16);                                      // halves of a register
constexpr Order ALTERNATING_LOW(0, 32), ALTERNATING_HIGH(16, 48);        // two registers
constexpr Order PAIRS_LOW(0, 32, true), PAIRS_HIGH(8, 40, true);         // two registers of two halves each

#if defined(__AMX_BF16__)
// out (32, 32) = left (32, depth) . panel (depth / 2, 32, 2), or added to what is there, in tiles of 16 x 16. Rows that lie
// across two cache lines make it six times as slow.
void multiply_in_tiles(const Bfloat16* left, int64_t step, const Bfloat16* panel, int64_t depth, float* out,
                       int64_t out_step, bool add) {
  asm volatile("" ::: "memory");  // compilers do not know that tiles are loaded from memory
  float* const lower = out + 16 * out_step;
  const int64_t out_bytes = out_step * sizeof(float), bytes = step * sizeof(Bfloat16);
  if (add) {
    _tile_loadd(0, out, out_bytes);
    _tile_loadd(1, out + 16, out_bytes);
    _tile_loadd(2, lower, out_bytes);
    _tile_loadd(3, lower + 16, out_bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t k = 0; k < depth; k += SIDE, left += SIDE, panel += SIDE * SIDE) {
    _tile_loadd(4, left, bytes);
    _tile_loadd(6, panel, 2 * SIDE * sizeof(Bfloat16));
    _tile_loadd(7, panel + SIDE, 2 * SIDE * sizeof(Bfloat16));
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, left + 16 * step, bytes);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, out, out_bytes);
  _tile_stored(1, out + 16, out_bytes);
  _tile_stored(2, lower, out_bytes);
  _tile_stored(3, lower + 16, out_bytes);
  asm volatile("" ::: "memory");
}
#endif

// The same as dot products of pairs, 8 rows at a time.
void multiply_in_dots(const Bfloat16* left, int64_t step, const Bfloat16* panel, int64_t depth, float* out,
                      int64_t out_step, bool add) {
  constexpr int HEIGHT = 8;
  for (int64_t row = 0; row < SIDE; row += HEIGHT, left += HEIGHT * step, out += HEIGHT * out_step) {
    __m512 sum[HEIGHT][2];
#pragma GCC unroll 16
    for (int each = 0; each < HEIGHT; ++each) {
      sum[each][0] = add ? _mm512_loadu_ps(out + each * out_step) : _mm512_setzero_ps();
      sum[each][1] = add ? _mm512_loadu_ps(out + each * out_step + 16) : _mm512_setzero_ps();
    }
    for (int64_t k = 0; k < depth; k += 2) {
      const __m512bh first = (__m512bh)_mm512_loadu_si512(panel + k * SIDE);
      const __m512bh second = (__m512bh)_mm512_loadu_si512(panel + k * SIDE + SIDE);
#pragma GCC unroll 16
      for (int each = 0; each < HEIGHT; ++each) {
        int32_t pair;
        std::memcpy(&pair, left + each * step + k, sizeof(pair));
        const __m512bh factor = (__m512bh)_mm512_set1_epi32(pair);
        sum[each][0] = _mm512_dpbf16_ps(sum[each][0], factor, first);
        sum[each][1] = _mm512_dpbf16_ps(sum[each][1], factor, second);
      }
    }
#pragma GCC unroll 16
    for (int each = 0; each < HEIGHT; ++each) {
      _mm512_storeu_ps(out + each * out_step, sum[each][0]);
      _mm512_storeu_ps(out + each * out_step + 16, sum[each][1]);
    }
  }
}

// Whether this process may use tiles. Linux grants them when asked, once for all threads.
bool tiles_are_granted() {
#if defined(__AMX_BF16__)
  constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18;
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
#else
  return false;
#endif
}

// Rows, matrix and output in bfloat16, multiplied in tiles or as dot products; sums are float32 and rounded once.
//
// What is multiplied is filled up to multiples of 32: the left side (rows, depth), and the right in panels (depth / 2, 32,
// 2) of 32 columns with pairs of depth side by side.
template <bool IN_TILES>
struct Bfloat16Products {
  typedef Bfloat16 Value;

  static constexpr int64_t BLOCK = SIDE, WEIGHT_BLOCK = 4 * TILE;

  static int64_t row_step(int64_t depth) { return filled(depth); }
  static int64_t left_size(int64_t depth) { return TILE * filled(depth); }
  static int64_t panels_size(int64_t depth, int64_t columns) { return filled(depth) * filled(columns); }
  static int64_t gradients_size(int64_t out_channels) { return WEIGHT_BLOCK * filled(out_channels); }

#if defined(__AMX_BF16__)
  // This thread's tiles are laid out as 16 rows of 64 bytes, and given back: PyTorch's own products lay out theirs.
  Bfloat16Products() {
    if (!IN_TILES) return;
    alignas(64) uint8_t layout[64] = {1};
    for (int tile = 0; tile < 8; ++tile) layout[16 + 2 * tile] = 64, layout[48 + tile] = 16;
    _tile_loadconfig(layout);
  }
  ~Bfloat16Products() {
    if (IN_TILES) _tile_release();
  }
#endif

  static void pack(const Bfloat16* from, int64_t depth_step, int64_t column_step, int64_t depth, int64_t columns,
                   Bfloat16* to) {
    for (int64_t column = 0; column < columns; column += SIDE) {
      const Bfloat16* source = from + column * column_step;
      const int64_t width = std::min(columns - column, SIDE);
      for (int64_t k = 0; k < filled(depth); k += 2, source += 2 * depth_step, to += 2 * SIDE) {
        const bool is_whole = k + 1 < depth;
        if (column_step == 1) {
          const __m512i even = _mm512_maskz_loadu_epi16(k < depth ? first_lanes(width) : 0, source);
          const __m512i odd = _mm512_maskz_loadu_epi16(is_whole ? first_lanes(width) : 0, source + depth_step);
          _mm512_storeu_si512(to, _mm512_permutex2var_epi16(even, ALTERNATING_LOW, odd));
          _mm512_storeu_si512(to + SIDE, _mm512_permutex2var_epi16(even, ALTERNATING_HIGH, odd));
        } else if (depth_step == 1 && is_whole && width == SIDE) {
          for (int64_t lane = 0; lane < SIDE; ++lane)
            std::memcpy(to + 2 * lane, source + lane * column_step, 2 * sizeof(Bfloat16));
        } else {
          std::memset(to, 0, 2 * SIDE * sizeof(Bfloat16));
          for (int64_t lane = 0; k < depth && lane < width; ++lane) {
            to[2 * lane] = source[lane * column_step];
            if (is_whole) to[2 * lane + 1] = source[lane * column_step + depth_step];
          }
        }
      }
    }
  }

  static void blend(const Sampling& p, const Corners& corners, Bfloat16* to) {
    const Blended rows(p, corners, 0);
    for (int64_t c = 0; c < p.channels; c += SIDE) {
      const __mmask32 lanes = first_lanes(p.channels - c);
      const Halves sum = rows.at(c, lanes);
      _mm512_storeu_si512(to + c, _mm512_maskz_permutexvar_epi16(lanes, ALTERNATING, rounded(sum.even, sum.odd)));
    }
  }

  static void multiply(const Bfloat16* left, int64_t step, int64_t rows, const Bfloat16* panels, int64_t depth,
                       float* out, int64_t out_step, int64_t columns, bool add) {
    alignas(64) float edge[SIDE * SIDE];
    for (int64_t row = 0; row < rows; row += SIDE) {
      const int64_t height = std::min(rows - row, SIDE);
      for (int64_t column = 0; column < columns; column += SIDE) {
        const int64_t width = std::min(columns - column, SIDE);
        const Bfloat16 *from = left + row * step, *panel = panels + column * filled(depth);
        float* to = out + row * out_step + column;
        if (height == SIDE && width == SIDE) {
          multiply_square(from, step, panel, filled(depth), to, out_step, add);
          continue;
        }
        std::memset(edge, 0, sizeof(edge));
        for (int64_t each = 0; add && each < height; ++each)
          std::memcpy(edge + each * SIDE, to + each * out_step, width * sizeof(float));
        multiply_square(from, step, panel, filled(depth), edge, SIDE, add);
        for (int64_t each = 0; each < height; ++each)
          std::memcpy(to + each * out_step, edge + each * SIDE, width * sizeof(float));
      }
    }
  }

  // Sums -> output.
  static void round(const float* sums, int64_t count, Bfloat16* to) {
    for (int64_t at = 0; at < count; at += SIDE) {
      const __mmask32 lanes = first_lanes(count - at);
      const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes), sums + at);
      const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes >> 16), sums + at + 16);
      _mm512_mask_storeu_epi16(to + at, lanes, rounded(low, high));
    }
  }

  static const Bfloat16* left_rows(const Bfloat16* rows, int64_t count, int64_t depth, Bfloat16* scratch) {
    if (count % SIDE == 0 && depth % SIDE == 0) return rows;
    for (int64_t each = 0; each < count; ++each) {
      Bfloat16* to = scratch + each * filled(depth);
      std::memcpy(to, rows + each * depth, depth * sizeof(Bfloat16));
      std::memset(to + depth, 0, (filled(depth) - depth) * sizeof(Bfloat16));
    }
    return scratch;
  }

  // (count, out_channels) -> (out_channels, WEIGHT_BLOCK), both filled.
  static void pack_gradients(const Bfloat16* from, int64_t count, int64_t out_channels, Bfloat16* to) {
    const __m512i lines = _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                             _mm512_set1_epi32(WEIGHT_BLOCK / 2));
    for (int64_t place = 0; place < filled(count); place += 2)
      for (int64_t o = 0; o < out_channels; o += SIDE) {
        const __mmask32 lanes = first_lanes(out_channels - o);
        const Bfloat16* at = from + place * out_channels + o;
        const __m512i even = _mm512_maskz_loadu_epi16(place < count ? lanes : 0, at);
        const __m512i odd = _mm512_maskz_loadu_epi16(place + 1 < count ? lanes : 0, at + out_channels);
        Bfloat16* line = to + o * WEIGHT_BLOCK + place;
        _mm512_i32scatter_epi32(line, lines, _mm512_permutex2var_epi16(even, ALTERNATING_LOW, odd), 4);
        line += 16 * WEIGHT_BLOCK;
        _mm512_i32scatter_epi32(line, lines, _mm512_permutex2var_epi16(even, ALTERNATING_HIGH, odd), 4);
      }
  }

  static void add_weights(const Sampling& p, int64_t first, int64_t count, int64_t tap, int64_t first_channel,
                          int64_t channels, const Bfloat16*, const Bfloat16* packed_gradients, int64_t out_channels,
                          Bfloat16* columns, float* out, int64_t out_step) {
    const int64_t depth = filled(count);
    for (int64_t place = 0; place < depth; place += 2) {
      // a pair beyond the last place, or its second half, is zero
      const __mmask32 there = place + 1 < count ? ~0u : place < count ? 0x55555555u : 0u;
      const Blended even(p, Corners(p, first + std::min(place, count - 1), tap), first_channel);
      const Blended odd(p, Corners(p, first + std::min(place + 1, count - 1), tap), first_channel);
      for (int64_t c = 0; c < channels; c += SIDE) {
        const __mmask32 lanes = first_lanes(channels - c);
        const Halves one = even.at(c, lanes), other = odd.at(c, lanes);
        const __m512i evens = rounded(one.even, other.even), odds = rounded(one.odd, other.odd);
        Bfloat16* to = columns + c * depth + place * SIDE;
        _mm512_store_si512(to, _mm512_maskz_permutex2var_epi16(there, evens, PAIRS_LOW, odds));
        _mm512_store_si512(to + SIDE, _mm512_maskz_permutex2var_epi16(there, evens, PAIRS_HIGH, odds));
      }
    }
    multiply(packed_gradients, WEIGHT_BLOCK, out_channels, columns, count, out, out_step, channels, true);
  }

 private:
  static void multiply_square(const Bfloat16* left, int64_t step, const Bfloat16* panel, int64_t depth, float* out,
                              int64_t out_step, bool add) {
#if defined(__AMX_BF16__)
    if constexpr (IN_TILES) return multiply_in_tiles(left, step, panel, depth, out, out_step, add);
#endif
    multiply_in_dots(left, step, panel, depth, out, out_step, add);
  }
};

}  // namespace

#endif
