// Moments of a block's raw convolutions and their mix on a CPU, float32 or bfloat16 with sums in float32: each map is
// read once for either.
//
// Rows are cut into pieces whose sizes depend on the maps alone, and sums of pieces are added up in order, so results are
// the same for any number of threads.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

extern "C" {

// The layout is that of `native._Maps`. Rows of high and low begin at level 1, those of mid at level 0.
struct Maps {
  const void *high, *mid, *low;  // (images, rows, channels)
  const int64_t* shapes;         // (levels, 2), height and width
  int64_t levels, images, channels, threads, is_bfloat16;
};

}  // extern "C"

namespace {

constexpr int64_t PIECE = 256;  // rows whose moments are taken at a time: they stay in a core's cache
constexpr int64_t WIDTH = 64;   // channels whose sums stay in registers
enum Branch { HIGH, MID, LOW };

struct Bfloat16 {
  uint16_t bits;
};

inline float widened(float value) { return value; }
inline float widened(Bfloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof(wide));
  return wide;
}

inline void round_to(float* to, float value) { *to = value; }
inline void round_to(Bfloat16* to, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t even = bits + 0x7fff + (bits >> 16 & 1);  // to the nearest, of two as near to the even one
  to->bits = static_cast<uint16_t>((value != value ? bits | 0x400000 : even) >> 16);
}

template <class Value>
struct View {
  const Value* rows;
  int64_t count;
};

class Layout {
 public:
  explicit Layout(const Maps& maps) : maps_(maps), starts_(1, 0) {
    for (int64_t level = 0; level < maps.levels; ++level) starts_.push_back(starts_.back() + height(level) * width(level));
  }
  int64_t height(int64_t level) const { return maps_.shapes[2 * level]; }
  int64_t width(int64_t level) const { return maps_.shapes[2 * level + 1]; }
  int64_t start(int64_t level) const { return starts_[level]; }
  int64_t positions() const { return starts_.back(); }
  bool has(int branch, int64_t level) const {
    return branch == MID || (branch == HIGH ? level + 1 < maps_.levels : level > 0);
  }
  // What a branch gives to a level of an image; high lies on the grid of the level coarser.
  template <class Value>
  View<Value> view(int branch, int64_t level, int64_t image) const {
    const int64_t output = level + (branch == HIGH), first = branch == MID ? 0 : starts_[1];
    const void* packed = branch == HIGH ? maps_.high : branch == MID ? maps_.mid : maps_.low;
    const int64_t row = image * (positions() - first) + starts_[output] - first;
    return {static_cast<const Value*>(packed) + row * maps_.channels, count(branch, level)};
  }
  int64_t count(int branch, int64_t level) const {
    const int64_t output = level + (branch == HIGH);
    return starts_[output + 1] - starts_[output];
  }

 private:
  const Maps& maps_;
  std::vector<int64_t> starts_;
};

// Rows of one branch, level and image, in pieces.
struct Part {
  int branch;
  int64_t level, image, first_piece, pieces;
};

std::vector<Part> parts_of(const Maps& maps, const Layout& layout) {
  std::vector<Part> parts;
  int64_t piece = 0;
  for (int branch = HIGH; branch <= LOW; ++branch)
    for (int64_t image = 0; image < maps.images; ++image)
      for (int64_t level = 0; level < maps.levels; ++level) {
        const int64_t rows = layout.has(branch, level) ? layout.count(branch, level) : 0;
        parts.push_back({branch, level, image, piece, (rows + PIECE - 1) / PIECE});
        piece += parts.back().pieces;
      }
  return parts;
}

// Mean as rounded, and sums of what is above it, of its squares and of its products with weights, of `width` channels.
template <bool WEIGHTED, class Value>
inline void measure_columns(const Value* rows, int64_t count, int64_t step, int64_t width, const float* weights, float* mean,
                            float* rest, float* squares, float* change) {
  float sum[WIDTH] = {}, above_sum[WIDTH] = {}, square[WIDTH] = {}, weighted[WIDTH] = {};
  for (int64_t row = 0; row < count; ++row)
    for (int64_t c = 0; c < width; ++c) sum[c] += widened(rows[row * step + c]);
  for (int64_t c = 0; c < width; ++c) sum[c] /= count;
  for (int64_t row = 0; row < count; ++row)
    for (int64_t c = 0; c < width; ++c) {
      const float above = widened(rows[row * step + c]) - sum[c];
      above_sum[c] += above;
      square[c] += above * above;
      if (WEIGHTED) weighted[c] += weights[row] * above;
    }
  float all_weights = 0;
  for (int64_t row = 0; WEIGHTED && row < count; ++row) all_weights += weights[row];
  for (int64_t c = 0; c < width; ++c) {  // from the first mean, whose sum was rounded often, to a better one
    mean[c] = sum[c] + above_sum[c] / count;
    const float moved = mean[c] - sum[c];
    rest[c] = above_sum[c] - count * moved;
    squares[c] = square[c] - moved * (above_sum[c] + rest[c]);
    change[c] = WEIGHTED ? weighted[c] - all_weights * moved : 0.0f;
  }
}

template <bool WEIGHTED, class Value>
void measure_piece(const Value* rows, int64_t count, int64_t channels, const float* weights, float* moments) {
  for (int64_t c = 0; c < channels; c += WIDTH) {
    float *mean = moments + c, *rest = mean + channels, *squares = rest + channels, *change = squares + channels;
    const Value* from = rows + c;
    if (channels - c >= WIDTH)
      measure_columns<WEIGHTED>(from, count, channels, WIDTH, weights, mean, rest, squares, change);
    else
      measure_columns<WEIGHTED>(from, count, channels, channels - c, weights, mean, rest, squares, change);
  }
}

// One axis of bilinear upsampling with aligned corners, as PyTorch computes it.
struct Between {
  int64_t low, high;
  float low_share, high_share;

  Between(int64_t at, int64_t size, int64_t target) {
    const float scale = target > 1 ? static_cast<float>(size - 1) / (target - 1) : 0.0f, place = scale * at;
    low = std::min(static_cast<int64_t>(place), size - 1);
    high = low + (low < size - 1);
    high_share = std::min(std::max(place - low, 0.0f), 1.0f);
    low_share = 1.0f - high_share;
  }
};

struct Lines {
  const float *base, *gain_mid, *gain_low, *slope1, *shift1, *slope2, *shift2;
};

// max(slope1 m + shift1, slope2 m + shift2) of one position, m the sum of what the branches give.
template <bool HAS_HIGH, bool HAS_LOW, class Value>
inline void mix_position(const Lines& at, int64_t channels, const Value* __restrict mid, const Value* __restrict low,
                         const float* __restrict left, const float* __restrict right, float left_share, float right_share,
                         Value* __restrict output) {
  for (int64_t c = 0; c < channels; ++c) {
    float mixed = at.base[c] + at.gain_mid[c] * widened(mid[c]);
    if (HAS_LOW) mixed += at.gain_low[c] * widened(low[c]);
    if (HAS_HIGH) mixed += left_share * left[c] + right_share * right[c];
    const float first = at.shift1[c] + at.slope1[c] * mixed, second = at.shift2[c] + at.slope2[c] * mixed;
    round_to(output + c, first > second || first != first ? first : second);  // a NaN stays one
  }
}

template <bool HAS_HIGH, bool HAS_LOW, class Value>
void mix_line(const Lines& at, int64_t width, int64_t channels, const Value* mid, const Value* low, const float* between,
              int64_t coarse_width, Value* output) {
  for (int64_t x = 0; x < width; ++x) {
    const Between place(x, HAS_HIGH ? coarse_width : 1, width);
    mix_position<HAS_HIGH, HAS_LOW>(at, channels, mid + x * channels, HAS_LOW ? low + x * channels : nullptr,
                                    between + place.low * channels, between + place.high * channels, place.low_share,
                                    place.high_share, output + x * channels);
  }
}

// Mean, variance and mean_change (3, images, levels, channels), written. `weights` are those of upsampling, of the levels
// that have a coarser one; `pieces` has room for (piece_count, 4, channels).
template <class Value>
void measure(const Maps& maps, const float* const* weights, float* pieces, float* mean, float* variance,
             float* mean_change) {
  const Layout layout(maps);
  const std::vector<Part> parts = parts_of(maps, layout);
  const int64_t channels = maps.channels, all = parts.back().first_piece + parts.back().pieces;
#pragma omp parallel num_threads(maps.threads)
  {
#pragma omp for schedule(dynamic)
    for (int64_t piece = 0; piece < all; ++piece) {
      const auto after = std::upper_bound(parts.begin(), parts.end(), piece,
                                          [](int64_t at, const Part& part) { return at < part.first_piece; });
      const Part& part = *(after - 1);
      const View<Value> view = layout.view<Value>(part.branch, part.level, part.image);
      const int64_t first = (piece - part.first_piece) * PIECE, count = std::min(view.count - first, PIECE);
      const Value* rows = view.rows + first * channels;
      float* moments = pieces + piece * 4 * channels;
      if (part.branch == HIGH)
        measure_piece<true>(rows, count, channels, weights[part.level] + first, moments);
      else
        measure_piece<false>(rows, count, channels, nullptr, moments);
    }
#pragma omp for schedule(dynamic)
    for (int64_t index = 0; index < static_cast<int64_t>(parts.size()); ++index) {
      const Part& part = parts[index];
      const int64_t at = ((part.branch * maps.images + part.image) * maps.levels + part.level) * channels;
      const int64_t count = part.pieces ? layout.count(part.branch, part.level) : 0;
      const auto rows_of = [&](int64_t piece) { return std::min(count - piece * PIECE, PIECE); };
      std::vector<double> weight(part.pieces);
      for (int64_t row = 0; part.branch == HIGH && row < count; ++row) weight[row / PIECE] += weights[part.level][row];
      for (int64_t c = 0; c < channels; ++c) {
        const float* first = pieces + part.first_piece * 4 * channels + c;
        double sum = 0, squares = 0, change = 0;
        for (int64_t piece = 0; piece < part.pieces; ++piece) {
          const float* moments = first + piece * 4 * channels;
          sum += rows_of(piece) * double(moments[0]) + moments[channels];
        }
        mean[at + c] = static_cast<float>(count ? sum / count : 0);
        for (int64_t piece = 0; piece < part.pieces; ++piece) {  // about the mean as rounded: the mix subtracts that
          const float* moments = first + piece * 4 * channels;
          const double above = double(moments[0]) - mean[at + c];
          squares += moments[2 * channels] + above * (2 * moments[channels] + rows_of(piece) * above);
          if (part.branch == HIGH) change += moments[3 * channels] + weight[piece] * above;
        }
        variance[at + c] = static_cast<float>(count ? std::max(squares / count, 0.0) : 0);
        mean_change[at + c] = static_cast<float>(change);
      }
    }
  }
}

// The output (images, positions, channels), written. Mean and gain are (3, images, levels, channels), the others
// (images, levels, channels).
template <class Value>
void mix(const Maps& maps, const float* mean, const float* gain, const float* shift, const float* slope1, const float* shift1,
         const float* slope2, const float* shift2, Value* output) {
  const Layout layout(maps);
  const int64_t channels = maps.channels, block = maps.images * maps.levels * channels;
  std::vector<int64_t> lines(1, 0);
  int64_t widest = 1;
  for (int64_t level = 0; level < maps.levels; ++level) {
    lines.push_back(lines.back() + layout.height(level));
    widest = std::max(widest, layout.width(level));
  }
#pragma omp parallel num_threads(maps.threads)
  {
    std::vector<float> base(channels), between(widest * channels);
#pragma omp for schedule(dynamic, 2)
    for (int64_t job = 0; job < maps.images * lines.back(); ++job) {
      const int64_t image = job / lines.back(), line = job % lines.back();
      const int64_t level = std::upper_bound(lines.begin(), lines.end(), line) - lines.begin() - 1, y = line - lines[level];
      const int64_t at = (image * maps.levels + level) * channels, width = layout.width(level);
      const bool has_high = layout.has(HIGH, level), has_low = layout.has(LOW, level);
      for (int64_t c = 0; c < channels; ++c) {
        base[c] = shift[at + c];
        for (int branch = HIGH; branch <= LOW; ++branch)
          if (layout.has(branch, level)) base[c] -= gain[branch * block + at + c] * mean[branch * block + at + c];
      }
      if (has_high) {  // the line between two lines of the coarser level
        const int64_t coarse_width = layout.width(level + 1), size = coarse_width * channels;
        const Between place(y, layout.height(level + 1), layout.height(level));
        const Value* rows = layout.view<Value>(HIGH, level, image).rows;
        const Value *above = rows + place.low * size, *below = rows + place.high * size;
        const float* gains = gain + at;
        for (int64_t x = 0; x < coarse_width; ++x)
          for (int64_t c = 0; c < channels; ++c) {
            const int64_t cell = x * channels + c;
            between[cell] = gains[c] * (place.low_share * widened(above[cell]) + place.high_share * widened(below[cell]));
          }
      }
      const Lines coefficients = {base.data(), gain + block + at, gain + 2 * block + at, slope1 + at,
                                  shift1 + at, slope2 + at,       shift2 + at};
      const int64_t first = y * width * channels, coarse_width = has_high ? layout.width(level + 1) : 0;
      const Value* mid = layout.view<Value>(MID, level, image).rows + first;
      const Value* low = has_low ? layout.view<Value>(LOW, level, image).rows + first : nullptr;
      Value* to = output + (image * layout.positions() + layout.start(level)) * channels + first;
      const auto function = has_high ? (has_low ? mix_line<true, true, Value> : mix_line<true, false, Value>)
                                     : (has_low ? mix_line<false, true, Value> : mix_line<false, false, Value>);
      function(coefficients, width, channels, mid, low, between.data(), coarse_width, to);
    }
  }
}

}  // namespace

extern "C" {

int64_t piece_count(const Maps* maps) {
  const Part last = parts_of(*maps, Layout(*maps)).back();
  return last.first_piece + last.pieces;
}

void block_measure(const Maps* maps, const float* const* weights, float* pieces, float* mean, float* variance,
                   float* mean_change) {
  const auto function = maps->is_bfloat16 ? measure<Bfloat16> : measure<float>;
  function(*maps, weights, pieces, mean, variance, mean_change);
}

void block_mix(const Maps* maps, const float* mean, const float* gain, const float* shift, const float* slope1,
               const float* shift1, const float* slope2, const float* shift2, void* output) {
  if (maps->is_bfloat16)
    mix(*maps, mean, gain, shift, slope1, shift1, slope2, shift2, static_cast<Bfloat16*>(output));
  else
    mix(*maps, mean, gain, shift, slope1, shift1, slope2, shift2, static_cast<float*>(output));
}

}  // extern "C"
