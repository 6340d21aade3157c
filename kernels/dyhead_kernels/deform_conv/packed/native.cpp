// Deformable convolution of packed maps on a CPU, forward and backward.
//
// A tile of positions is sampled, blended and multiplied tap by tap while it lies in a core's own cache, and threads take
// tiles as they become free: nobody waits for a slower one but at the very end. Sums are taken in an order that depends
// on sizes alone, so results are the same for any number of threads.
//
// `Products` is `Float32`, which says what its members are, or one of `Bfloat16Products`.

#include <type_traits>

#include "bfloat16.h"
#include "float32.h"

namespace {

// matrix (out_channels, taps * channels) -> panels of each tap: for columns times the tap, or for outputs' gradients times
// its transpose.
template <class Products, class Value = typename Products::Value>
void pack_matrix(const Value* matrix, int64_t out_channels, int64_t taps, int64_t channels, bool transposed,
                 Value* panels, int64_t threads) {
  const int64_t depth = transposed ? out_channels : channels, columns = transposed ? channels : out_channels;
  const int64_t step = taps * channels, size = Products::panels_size(depth, columns);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t tap = 0; tap < taps; ++tap)
    Products::pack(matrix + tap * channels, transposed ? step : 1, transposed ? 1 : step, depth, columns,
                   panels + tap * size);
}

// The row on which a tap lies that nothing moves, zeros where it lies off the map.
template <class Value>
void copy_row(const Sampling& p, int64_t place, int64_t tap, Value* to) {
  const int64_t cell = place % p.positions * p.taps + tap;
  const float y = p.y[cell], x = p.x[cell];
  if (y < 0 || x < 0 || y > p.last_y[cell] || x > p.last_x[cell]) {
    std::memset(to, 0, p.channels * sizeof(Value));
    return;
  }
  const int64_t row = place / p.positions * p.image_rows + p.start[cell] + static_cast<int64_t>(y) * p.line_rows[cell] +
                      static_cast<int64_t>(x) * p.pixel_rows;
  std::memcpy(to, static_cast<const Value*>(p.rows) + row * p.channels, p.channels * sizeof(Value));
}

// output (images * positions, out_channels), written. Without offsets an ordinary convolution.
template <class Products, class Output, class Value = typename Products::Value>
void forward(const Sampling& p, const Value* panels, int64_t out_channels, Output* output) {
  constexpr int64_t BLOCK = Products::BLOCK;
  constexpr bool ROUNDS = !std::is_same<Output, float>::value;  // sums lie apart from the output until they are whole
  const int64_t places = p.images * p.positions, tap_size = Products::panels_size(p.channels, out_channels);
  const int64_t step = Products::row_step(p.channels);
#pragma omp parallel num_threads(p.threads)
  {
    [[maybe_unused]] const Products products;
    const Scratch<Value> columns(BLOCK * step);
    const Scratch<float> own(ROUNDS ? TILE * out_channels : 0);
    std::memset(columns, 0, BLOCK * step * sizeof(Value));
#pragma omp for schedule(dynamic) nowait
    for (int64_t tile = 0; tile < parts(places, TILE); ++tile) {
      const int64_t first = tile * TILE, count = std::min(places - first, TILE);
      Output* const to = output + first * out_channels;
      float* const sums = ROUNDS ? static_cast<float*>(own) : reinterpret_cast<float*>(to);
      for (int64_t tap = 0; tap < p.taps; ++tap)
        for (int64_t start = 0; start < count; start += BLOCK) {
          const int64_t rows = std::min(count - start, BLOCK);
          for (int64_t each = 0; each < rows; ++each) {
            const int64_t place = first + start + each;
            if (p.offset == nullptr)
              copy_row<Value>(p, place, tap, columns + each * step);
            else
              Products::blend(p, Corners(p, place, tap), columns + each * step);
          }
          Products::multiply(columns, step, rows, panels + tap * tap_size, p.channels, sums + start * out_channels,
                             out_channels, out_channels, tap > 0);
        }
      if constexpr (ROUNDS) Products::round(sums, count * out_channels, to);
    }
  }
}

// Parts of the gradient of the matrix, (part_count, taps, out_channels, channels), each over an equal run of blocks of
// positions and added to what is there. Their sum in order is the gradient. `packed` has room for the gradients of all
// blocks.
template <class Products, class Value = typename Products::Value>
void weight_backward(const Sampling& p, const Value* grad_output, int64_t out_channels, int64_t block_channels,
                     int64_t part_count, Value* packed, float* grad_matrix) {
  constexpr int64_t LENGTH = Products::WEIGHT_BLOCK;
  const int64_t places = p.images * p.positions, runs = parts(places, LENGTH);
  const int64_t blocks = parts(p.channels, block_channels), packed_size = Products::gradients_size(out_channels);
#pragma omp parallel num_threads(p.threads)
  {
    [[maybe_unused]] const Products products;
    const Scratch<Value> columns(Products::panels_size(LENGTH, block_channels));
#pragma omp for schedule(dynamic)
    for (int64_t run = 0; run < runs; ++run)
      Products::pack_gradients(grad_output + run * LENGTH * out_channels, std::min(places - run * LENGTH, LENGTH),
                               out_channels, packed + run * packed_size);
#pragma omp for schedule(dynamic) nowait
    for (int64_t job = 0; job < part_count * p.taps * blocks; ++job) {
      const int64_t part = job / (p.taps * blocks), tap = job / blocks % p.taps, block = job % blocks;
      const int64_t first_channel = block * block_channels;
      const int64_t channels = std::min(p.channels - first_channel, block_channels);
      float* to = grad_matrix + (part * p.taps + tap) * out_channels * p.channels + first_channel;
      for (int64_t run = runs * part / part_count; run < runs * (part + 1) / part_count; ++run) {
        const int64_t first = run * LENGTH, count = std::min(places - first, LENGTH);
        Products::add_weights(p, first, count, tap, first_channel, channels, grad_output + first * out_channels,
                              packed + run * packed_size, out_channels, columns, to, p.channels);
      }
    }
  }
}

// Products of a column's gradient with the four rows that it blends.
template <class Value>
void multiply_corners(const Sampling& p, const Corners& corners, const float* grad, float* products) {
  Vector sum[4] = {};
  const Value* at[4];
  for (int corner = 0; corner < 4; ++corner)
    at[corner] = static_cast<const Value*>(p.rows) + corners.row[corner] * p.channels;
  int64_t c = 0;
  for (; c + LANES <= p.channels; c += LANES) {
    const Vector factor = load(grad + c);
    for (int corner = 0; corner < 4; ++corner) sum[corner] += factor * load(at[corner] + c);
  }
  for (int corner = 0; corner < 4; ++corner) {
    products[corner] = 0;
    for (int lane = 0; lane < LANES; ++lane) products[corner] += sum[corner][lane];
    for (int64_t rest = c; rest < p.channels; ++rest) products[corner] += grad[rest] * widened(at[corner][rest]);
  }
}

// Gradients of rows (added), offsets (images, positions, taps, 2) and masks (images, positions, taps) (written), each
// unless null.
//
// `bags` holds the gradients of the columns of `chunk` places, (chunk, taps, channels): first they are made, tile by
// tile, then each stripe of rows takes what falls to it, in the order of places, taps and corners.
template <class Products, class Value = typename Products::Value>
void backward(const Sampling& p, const Value* grad_output, const Value* panels, int64_t out_channels, float* grad_rows,
              float* grad_offset, float* grad_mask, float* bags, int64_t chunk, int64_t stripe_rows) {
  const int64_t places = p.images * p.positions, all_rows = p.images * p.image_rows;
  const int64_t tap_size = Products::panels_size(out_channels, p.channels), bag_step = p.taps * p.channels;
  const int64_t chunk_tiles = parts(chunk, TILE), stripes = parts(all_rows, stripe_rows);
  int64_t* reach = new int64_t[2 * chunk_tiles * p.taps];  // first and last row that a tile's tap meets
#pragma omp parallel num_threads(p.threads)
  {
    [[maybe_unused]] const Products products;
    const Scratch<Value> left(Products::left_size(out_channels));
    const Scratch<float> own(grad_rows == nullptr ? TILE * p.channels : 0);
    for (int64_t start = 0; start < places; start += chunk) {
      const int64_t end = std::min(start + chunk, places), tiles = parts(end - start, TILE);
#pragma omp for schedule(dynamic)
      for (int64_t job = 0; job < tiles * p.taps; ++job) {
        const int64_t tile = job / p.taps, tap = job % p.taps;
        const int64_t first = start + tile * TILE, count = std::min(end - first, TILE);
        float* grad = grad_rows == nullptr ? static_cast<float*>(own) : bags + (first - start) * bag_step + tap * p.channels;
        const int64_t step = grad_rows == nullptr ? p.channels : bag_step;
        const Value* rows = Products::left_rows(grad_output + first * out_channels, count, out_channels, left);
        Products::multiply(rows, Products::row_step(out_channels), count, panels + tap * tap_size, out_channels, grad, step,
                           p.channels, false);
        int64_t lowest = all_rows, highest = -1;
        for (int64_t each = 0; each < count; ++each) {
          const Corners corners(p, first + each, tap);
          lowest = std::min(lowest, corners.row[0]);
          highest = std::max(highest, corners.row[3]);
          if (grad_offset == nullptr) continue;
          float sum[4];
          multiply_corners<Value>(p, corners, grad + each * step, sum);
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

template <class Products>
struct Named {
  typedef Products Kind;
  typedef typename Products::Value Value;
};

// Kinds of products, as `native.Products` counts them.
constexpr int64_t DOTS = 1, TILES = 2;

// Calls `run` with the products of a kind.
template <class Run>
auto with(int64_t kind, Run run) {
#if defined(HAS_BFLOAT16)
  if (kind == TILES) return run(Named<Bfloat16Products<true>>());
  if (kind == DOTS) return run(Named<Bfloat16Products<false>>());
#endif
  return run(Named<Float32>());
}

}  // namespace

extern "C" {

// Whether this CPU, compiler and process have a kind of products.
int64_t has_products(int64_t kind) {
#if defined(HAS_BFLOAT16)
  return kind == TILES ? tiles_are_granted() : true;
#else
  return kind != TILES && kind != DOTS;
#endif
}

// The quickest kind for bfloat16. Intel's cores take so few dot products in a cycle that float32 is quicker there.
int64_t bfloat16_products() {
  if (has_products(TILES)) return TILES;
#if defined(HAS_BFLOAT16)
  if (!__builtin_cpu_is("intel")) return DOTS;
#endif
  return 0;
}

// Values of a packed matrix, and of packed gradients of so many places.
int64_t panels_size(int64_t kind, int64_t depth, int64_t columns) {
  return with(kind, [&](auto named) { return decltype(named)::Kind::panels_size(depth, columns); });
}
int64_t gradients_size(int64_t kind, int64_t places, int64_t out_channels) {
  return with(kind, [&](auto named) {
    using Kind = typename decltype(named)::Kind;
    return parts(places, Kind::WEIGHT_BLOCK) * Kind::gradients_size(out_channels);
  });
}

void deform_conv_pack(int64_t kind, const void* matrix, int64_t out_channels, int64_t taps, int64_t channels,
                      int64_t transposed, void* panels, int64_t threads) {
  with(kind, [&](auto named) {
    using Value = typename decltype(named)::Value;
    pack_matrix<typename decltype(named)::Kind>(static_cast<const Value*>(matrix), out_channels, taps, channels,
                                                transposed, static_cast<Value*>(panels), threads);
  });
}

void deform_conv_forward(int64_t kind, const Sampling* sampling, const void* panels, int64_t out_channels,
                         void* output) {
  with(kind, [&](auto named) {
    using Value = typename decltype(named)::Value;
    forward<typename decltype(named)::Kind>(*sampling, static_cast<const Value*>(panels), out_channels,
                                            static_cast<Value*>(output));
  });
}

// The same with sums as they are.
void deform_conv_forward_float32(int64_t kind, const Sampling* sampling, const void* panels, int64_t out_channels,
                                 float* output) {
  with(kind, [&](auto named) {
    using Value = typename decltype(named)::Value;
    forward<typename decltype(named)::Kind>(*sampling, static_cast<const Value*>(panels), out_channels, output);
  });
}

void deform_conv_weight_backward(int64_t kind, const Sampling* sampling, const void* grad_output, int64_t out_channels,
                                 int64_t block_channels, int64_t part_count, void* packed, float* grad_matrix) {
  with(kind, [&](auto named) {
    using Value = typename decltype(named)::Value;
    weight_backward<typename decltype(named)::Kind>(*sampling, static_cast<const Value*>(grad_output), out_channels,
                                                    block_channels, part_count, static_cast<Value*>(packed),
                                                    grad_matrix);
  });
}

void deform_conv_backward(int64_t kind, const Sampling* sampling, const void* grad_output, const void* panels,
                          int64_t out_channels, float* grad_rows, float* grad_offset, float* grad_mask, float* bags,
                          int64_t chunk, int64_t stripe_rows) {
  with(kind, [&](auto named) {
    using Value = typename decltype(named)::Value;
    backward<typename decltype(named)::Kind>(*sampling, static_cast<const Value*>(grad_output),
                                             static_cast<const Value*>(panels), out_channels, grad_rows, grad_offset,
                                             grad_mask, bags, chunk, stripe_rows);
  });
}

}  // extern "C"
