// What a deformable convolution of packed maps samples: the corners of a position's tap and their weights.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <new>

extern "C" {

// The layout is that of `native.Samples_`; sizes and steps count elements.
struct Sampling {
  const void* rows;  // (images * image_rows, channels), float32 or bfloat16
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

constexpr int64_t TILE = 96;  // positions: columns of a tap, their outputs and a tap's weights fit a core's cache

// Memory of one thread, aligned to cache lines.
template <class Value>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : at_(static_cast<Value*>(std::aligned_alloc(64, (std::max<int64_t>(count, 1) * sizeof(Value) + 63) / 64 * 64))) {
    if (at_ == nullptr) throw std::bad_alloc();
  }
  ~Scratch() { std::free(at_); }
  Scratch(const Scratch&) = delete;
  operator Value*() const { return at_; }

 private:
  Value* at_;
};

inline int64_t parts(int64_t count, int64_t length) { return (count + length - 1) / length; }

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

}  // namespace
