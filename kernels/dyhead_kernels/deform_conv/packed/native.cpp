// Deformable convolution of packed maps on a CPU, forward and backward, float32.
//
// A tile of positions is sampled, blended and multiplied tap by tap while it lies in a core's own cache, and threads take
// tiles as they become free: nobody waits for a slower one but at the very end. Sums are taken in an order that depends
// on sizes alone, so results are the same for any number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

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
inline void store(float* at, Vector value) { *reinterpret_cast<Unaligned*>(at) = value; }

// Memory of one thread, aligned to cache lines.
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : at_(static_cast<float*>(std::aligned_alloc(64, (std::max<int64_t>(count, 1) * sizeof(float) + 63) / 64 * 64))) {
    if (at_ == nullptr) throw std::bad_alloc();
  }
  ~Scratch() { std::free(at_); }
  Scratch(const Scratch&) = delete;
  operator float*() const { return at_; }

 private:
  float* at_;
};

inline int64_t parts(int64_t count, int64_t length) { return (count + length - 1) / length; }

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

// (depth, columns) -> (panels, depth, WIDTH), zeros behind the last column.
void pack_panels(const float* from, int64_t depth_step, int64_t column_step, int64_t depth, int64_t columns, float* to) {
  for (int64_t panel = 0; panel * WIDTH < columns; ++panel) {
    const int64_t width = std::min<int64_t>(columns - panel * WIDTH, WIDTH);
    const float* source = from + panel * WIDTH * column_step;
    for (int64_t k = 0; k < depth; ++k, source += depth_step, to += WIDTH) {
      for (int64_t lane = 0; lane < width; ++lane) to[lane] = source[lane * column_step];
      for (int64_t lane = width; lane < WIDTH; ++lane) to[lane] = 0.0f;
    }
  }
}

}  // namespace

extern "C" {

// The layout is that of `native.Samples_`; sizes and steps count elements.
struct Sampling {
  const float* rows;  // (images * image_rows, channels)
  const float* offset;
  const float* mask;  // or null
  const float *y, *x, *last_y, *last_x;  // (positions, taps)
  const int32_t *line_rows, *start;      // (positions, taps)
  int64_t images, image_rows, positions, taps, channels, pixel_rows;
  int64_t offset_image, offset_position, mask_image, mask_position;
  int64_t threads;
};

}  // extern "C"

namespace {

// One axis of a sampling position, as `sampling._Axis`.
struct Axis {
  float low, high, low_inside, high_inside, low_share, high_share;

  Axis(float position, float last) {
    float floor = std::floor(position);
    floor = std::isnan(floor) ? -2.0f : floor;  // a NaN must not become an address: it lies off the map
    const float fraction = position - floor;    // and stays one here
    low = std::min(std::max(floor, 0.0f), last);
    high = std::min(std::max(floor + 1, 0.0f), last);
    low_inside = low == floor;
    high_inside = high == floor + 1;
    low_share = (1 - fraction) * low_inside;
    high_share = fraction * high_inside;
  }
};

// The four corners that one tap of one position blends: top left, top right, bottom left, bottom right.
struct Corners {
  Axis y, x;
  float mask;
  int64_t row[4];
  float weight[4];

  Corners(const Sampling& p, int64_t place, int64_t tap)
      : Corners(p, place / p.positions, place % p.positions, tap, place % p.positions * p.taps + tap) {}

 private:
  Corners(const Sampling& p, int64_t image, int64_t position, int64_t tap, int64_t cell)
      : y(p.y[cell] + p.offset[image * p.offset_image + position * p.offset_position + 2 * tap], p.last_y[cell]),
        x(p.x[cell] + p.offset[image * p.offset_image + position * p.offset_position + 2 * tap + 1], p.last_x[cell]),
        mask(p.mask == nullptr ? 1.0f : p.mask[image * p.mask_image + position * p.mask_position + tap]) {
    const int64_t start = p.start[cell] + image * p.image_rows;
    const int64_t top = start + static_cast<int64_t>(y.low) * p.line_rows[cell];
    const int64_t bottom = start + static_cast<int64_t>(y.high) * p.line_rows[cell];
    const int64_t left = static_cast<int64_t>(x.low) * p.pixel_rows, right = static_cast<int64_t>(x.high) * p.pixel_rows;
    row[0] = top + left, row[1] = top + right, row[2] = bottom + left, row[3] = bottom + right;
    const float above = y.low_share * mask, below = y.high_share * mask;
    weight[0] = above * x.low_share, weight[1] = above * x.high_share;
    weight[2] = below * x.low_share, weight[3] = below * x.high_share;
  }
};

// `channels` blended values from `first` on.
void blend(const Sampling& p, const Corners& corners, int64_t first, int64_t channels, float* to) {
  const float* at[4];
  for (int corner = 0; corner < 4; ++corner) at[corner] = p.rows + corners.row[corner] * p.channels + first;
  const float* w = corners.weight;
  int64_t c = 0;
  for (; c + LANES <= channels; c += LANES)
    store(to + c, w[0] * load(at[0] + c) + w[1] * load(at[1] + c) + w[2] * load(at[2] + c) + w[3] * load(at[3] + c));
  for (; c < channels; ++c) to[c] = w[0] * at[0][c] + w[1] * at[1][c] + w[2] * at[2][c] + w[3] * at[3][c];
}

// Products of a column's gradient with the four rows that it blends.
void multiply_corners(const Sampling& p, const Corners& corners, const float* grad, float* products) {
  Vector sum[4] = {};
  const float* at[4];
  for (int corner = 0; corner < 4; ++corner) at[corner] = p.rows + corners.row[corner] * p.channels;
  int64_t c = 0;
  for (; c + LANES <= p.channels; c += LANES) {
    const Vector factor = load(grad + c);
    for (int corner = 0; corner < 4; ++corner) sum[corner] += factor * load(at[corner] + c);
  }
  for (int corner = 0; corner < 4; ++corner) {
    products[corner] = 0;
    for (int lane = 0; lane < LANES; ++lane) products[corner] += sum[corner][lane];
    for (int64_t rest = c; rest < p.channels; ++rest) products[corner] += grad[rest] * at[corner][rest];
  }
}

// to += weight * from
void add_row(float* to, const float* from, float weight, int64_t count) {
  int64_t index = 0;
  for (; index + LANES <= count; index += LANES) store(to + index, load(to + index) + weight * load(from + index));
  for (; index < count; ++index) to[index] += weight * from[index];
}

constexpr int64_t TILE = 96;  // positions: columns of a tap, their outputs and a tap's weights fit a core's cache

}  // namespace

extern "C" {

int64_t panel_width() { return WIDTH; }

// matrix (out_channels, taps * channels) -> panels, two-fold: for columns times the matrix (taps, ...), and for outputs'
// gradients times its transpose (taps, ...), where asked for.
void pack_matrix(const float* matrix, int64_t out_channels, int64_t taps, int64_t channels, float* forward,
                 float* backward, int64_t threads) {
  const int64_t out_panels = parts(out_channels, WIDTH), panels = parts(channels, WIDTH);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t tap = 0; tap < taps; ++tap) {
    const float* from = matrix + tap * channels;
    if (forward != nullptr)
      pack_panels(from, 1, taps * channels, channels, out_channels, forward + tap * out_panels * channels * WIDTH);
    if (backward != nullptr)
      pack_panels(from, taps * channels, 1, out_channels, channels, backward + tap * panels * out_channels * WIDTH);
  }
}

// output (images * positions, out_channels), written.
void deform_conv_forward(const Sampling* sampling, const float* panels, int64_t out_channels, float* output) {
  const Sampling& p = *sampling;
  const int64_t places = p.images * p.positions, tap_size = parts(out_channels, WIDTH) * p.channels * WIDTH;
#pragma omp parallel num_threads(p.threads)
  {
    const Scratch columns(TILE * p.channels);
#pragma omp for schedule(dynamic) nowait
    for (int64_t tile = 0; tile < parts(places, TILE); ++tile) {
      const int64_t first = tile * TILE, count = std::min(places - first, TILE);
      for (int64_t tap = 0; tap < p.taps; ++tap) {
        for (int64_t each = 0; each < count; ++each)
          blend(p, Corners(p, first + each, tap), 0, p.channels, columns + each * p.channels);
        multiply<false>(columns, p.channels, count, panels + tap * tap_size, p.channels, output + first * out_channels,
                        out_channels, out_channels, tap > 0);
      }
    }
  }
}

// Parts of the gradient of the matrix, (part_count, taps * channels, out_channels), written: each over an equal run of
// tiles. Their sum in order is the gradient. `packed` has room for (tiles, panels, TILE, WIDTH).
void deform_conv_weight_backward(const Sampling* sampling, const float* grad_output, int64_t out_channels,
                                 int64_t block_channels, int64_t part_count, float* packed, float* grad_matrix_t) {
  const Sampling& p = *sampling;
  const int64_t places = p.images * p.positions, tiles = parts(places, TILE);
  const int64_t blocks = parts(p.channels, block_channels), tile_size = parts(out_channels, WIDTH) * TILE * WIDTH;
#pragma omp parallel num_threads(p.threads)
  {
    const Scratch columns(TILE * block_channels);
#pragma omp for schedule(dynamic)
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t first = tile * TILE, count = std::min(places - first, TILE);
      pack_panels(grad_output + first * out_channels, out_channels, 1, count, out_channels, packed + tile * tile_size);
    }
#pragma omp for schedule(dynamic) nowait
    for (int64_t job = 0; job < part_count * p.taps * blocks; ++job) {
      const int64_t part = job / (p.taps * blocks), tap = job / blocks % p.taps, block = job % blocks;
      const int64_t first_channel = block * block_channels;
      const int64_t channels = std::min(p.channels - first_channel, block_channels);
      float* to = grad_matrix_t + ((part * p.taps + tap) * p.channels + first_channel) * out_channels;
      std::memset(to, 0, channels * out_channels * sizeof(float));
      for (int64_t tile = tiles * part / part_count; tile < tiles * (part + 1) / part_count; ++tile) {
        const int64_t first = tile * TILE, count = std::min(places - first, TILE);
        for (int64_t each = 0; each < count; ++each)
          blend(p, Corners(p, first + each, tap), first_channel, channels, columns + each * block_channels);
        multiply<true>(columns, block_channels, channels, packed + tile * tile_size, count, to, out_channels,
                       out_channels, true);
      }
    }
  }
}

// Gradients of rows (added), offsets (images, positions, taps, 2) and masks (images, positions, taps) (written), each
// unless null.
//
// `bags` holds the gradients of the columns of `chunk` places, (chunk, taps, channels): first they are made, tile by
// tile, then each stripe of rows takes what falls to it, in the order of places, taps and corners.
void deform_conv_backward(const Sampling* sampling, const float* grad_output, const float* panels, int64_t out_channels,
                          float* grad_rows, float* grad_offset, float* grad_mask, float* bags, int64_t chunk,
                          int64_t stripe_rows) {
  const Sampling& p = *sampling;
  const int64_t places = p.images * p.positions, all_rows = p.images * p.image_rows;
  const int64_t tap_size = parts(p.channels, WIDTH) * out_channels * WIDTH, bag_step = p.taps * p.channels;
  const int64_t chunk_tiles = parts(chunk, TILE), stripes = parts(all_rows, stripe_rows);
  int64_t* reach = new int64_t[2 * chunk_tiles * p.taps];  // first and last row that a tile's tap meets
#pragma omp parallel num_threads(p.threads)
  {
    const Scratch own(grad_rows == nullptr ? TILE * p.channels : 0);
    for (int64_t start = 0; start < places; start += chunk) {
      const int64_t end = std::min(start + chunk, places), tiles = parts(end - start, TILE);
#pragma omp for schedule(dynamic)
      for (int64_t job = 0; job < tiles * p.taps; ++job) {
        const int64_t tile = job / p.taps, tap = job % p.taps;
        const int64_t first = start + tile * TILE, count = std::min(end - first, TILE);
        float* grad = grad_rows == nullptr ? static_cast<float*>(own) : bags + (first - start) * bag_step + tap * p.channels;
        const int64_t step = grad_rows == nullptr ? p.channels : bag_step;
        multiply<false>(grad_output + first * out_channels, out_channels, count, panels + tap * tap_size, out_channels,
                        grad, step, p.channels, false);
        int64_t lowest = all_rows, highest = -1;
        for (int64_t each = 0; each < count; ++each) {
          const Corners corners(p, first + each, tap);
          lowest = std::min(lowest, corners.row[0]);
          highest = std::max(highest, corners.row[3]);
          if (grad_offset == nullptr) continue;
          float sum[4];
          multiply_corners(p, corners, grad + each * step, sum);
          const Axis &y = corners.y, &x = corners.x;
          const float top = sum[0] * x.low_share + sum[1] * x.high_share;
          const float bottom = sum[2] * x.low_share + sum[3] * x.high_share;
          const float left = sum[0] * y.low_share + sum[2] * y.high_share;
          const float right = sum[1] * y.low_share + sum[3] * y.high_share;
          const int64_t cell = (first + each) * p.taps + tap;
          grad_offset[2 * cell] = (bottom * y.high_inside - top * y.low_inside) * corners.mask;
          grad_offset[2 * cell + 1] = (right * x.high_inside - left * x.low_inside) * corners.mask;
          if (grad_mask != nullptr) grad_mask[cell] = top * y.low_share + bottom * y.high_share;
        }
        reach[2 * job] = lowest;
        reach[2 * job + 1] = highest;
      }
      if (grad_rows == nullptr) continue;
#pragma omp for schedule(dynamic)
      for (int64_t stripe = 0; stripe < stripes; ++stripe) {
        const int64_t low = stripe * stripe_rows, high = low + stripe_rows;
        for (int64_t job = 0; job < tiles * p.taps; ++job) {
          if (reach[2 * job] >= high || reach[2 * job + 1] < low) continue;
          const int64_t tap = job % p.taps, first = start + job / p.taps * TILE, count = std::min(end - first, TILE);
          for (int64_t each = 0; each < count; ++each) {
            const Corners corners(p, first + each, tap);
            const float* bag = bags + (first + each - start) * bag_step + tap * p.channels;
            for (int corner = 0; corner < 4; ++corner) {
              const int64_t row = corners.row[corner];
              if (row >= low && row < high && corners.weight[corner] != 0)
                add_row(grad_rows + row * p.channels, bag, corners.weight[corner], p.channels);
            }
          }
        }
      }
    }
  }
  delete[] reach;
}

}  // extern "C"
