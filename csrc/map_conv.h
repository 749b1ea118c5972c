// What the convolutions of training accept, and where the points lie that they multiply.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "check.h"
#include "pool_act.h"

namespace fastmte {

// Channels of a block, and points that are multiplied at a time.
constexpr int64_t kMapBlock = 32;

struct MapConvSizes {
  int64_t n_songs, rows, columns, inputs, outputs;
  int64_t kernel[2], stride[2], padding[2];

  int64_t out_rows() const { return (rows + 2 * padding[0] - kernel[0]) / stride[0] + 1; }
  int64_t out_columns() const { return (columns + 2 * padding[1] - kernel[1]) / stride[1] + 1; }
  int64_t n_taps() const { return kernel[0] * kernel[1]; }
};

// The points of a map that lie a stride apart, from (row, column) on.
struct MapPlane {
  int64_t row, column, rows, columns;
};

// What a tap reads for the point (r, c) of the output: (r + row, c + column) of a plane.
struct MapTap {
  int64_t plane, row, column;
};

class MapTaps {
 public:
  explicit MapTaps(const MapConvSizes& sizes) {
    for (int64_t y = 0; y < sizes.kernel[0]; ++y)
      for (int64_t x = 0; x < sizes.kernel[1]; ++x) {
        const int64_t row = y - sizes.padding[0], column = x - sizes.padding[1];
        const int64_t first_row = remainder(row, sizes.stride[0]),
                      first_column = remainder(column, sizes.stride[1]);
        taps.push_back({plane_at(first_row, first_column, sizes),
                        (row - first_row) / sizes.stride[0],
                        (column - first_column) / sizes.stride[1]});
        reach = std::max(reach, std::abs(taps.back().column));
        above = std::max(above, -taps.back().row);
        below = std::max(below, taps.back().row);
        const int64_t columns = planes[taps.back().plane].columns;
        // An odd tap reads pairs that begin one further on: the last has its second point.
        pitch = std::max({pitch, sizes.out_columns() + taps.back().column,
                          columns - taps.back().column, columns + (taps.back().column & 1)});
      }
    for (const MapPlane& plane : planes) pitch = std::max(pitch, plane.columns);
    pitch = (std::max(pitch, sizes.out_columns()) + 1) / 2 * 2;
  }

  std::vector<MapPlane> planes;
  std::vector<MapTap> taps;  // in the kernel's order
  int64_t reach = 0;         // columns, and rows above and below, at most from a point
  int64_t above = 0, below = 0;
  int64_t pitch = 0;  // from one row to the next: zeros between two rows serve both; even

 private:
  static int64_t remainder(int64_t a, int64_t b) { return (a % b + b) % b; }

  int64_t plane_at(int64_t row, int64_t column, const MapConvSizes& sizes) {
    for (size_t i = 0; i < planes.size(); ++i)
      if (planes[i].row == row && planes[i].column == column) return static_cast<int64_t>(i);
    planes.push_back({row, column, count(sizes.rows, row, sizes.stride[0]),
                      count(sizes.columns, column, sizes.stride[1])});
    return static_cast<int64_t>(planes.size()) - 1;
  }

  static int64_t count(int64_t size, int64_t first, int64_t stride) {
    return size > first ? (size - first + stride - 1) / stride : 0;
  }
};

inline void check_blocks(const char* op, const char* name, int64_t channels) {
  FASTMTE_CHECK(channels > 0 && channels % kMapBlock == 0, op, ": ", name,
                " must be a multiple of ", kMapBlock, ", got ", channels);
}

// The maps' sizes; both kinds of channels come in whole blocks.
inline MapConvSizes check_map_conv(const char* op, int64_t n_songs, int64_t rows, int64_t columns,
                                   int64_t inputs, int64_t outputs,
                                   const std::vector<int64_t>& kernel,
                                   const std::vector<int64_t>& stride,
                                   const std::vector<int64_t>& padding) {
  check_two(op, "kernel", kernel, 1);
  check_two(op, "stride", stride, 1);
  check_two(op, "padding", padding, 0);
  check_blocks(op, "inputs", inputs);
  check_blocks(op, "outputs", outputs);
  const int64_t size[2] = {rows, columns};
  for (int i = 0; i < 2; ++i)
    FASTMTE_CHECK(size[i] + 2 * padding[i] >= kernel[i], op, ": kernel[", i, "] must be at most ",
                  size[i] + 2 * padding[i], ", got ", kernel[i]);
  return {n_songs,
          rows,
          columns,
          inputs,
          outputs,
          {kernel[0], kernel[1]},
          {stride[0], stride[1]},
          {padding[0], padding[1]}};
}

// A map of the convolution's output.
inline void check_map_out(const char* op, const Tensor& out, const MapConvSizes& sizes) {
  const int64_t want[4] = {sizes.n_songs, sizes.out_rows(), sizes.out_columns(), sizes.outputs};
  for (int dim = 0; dim < 4; ++dim)
    FASTMTE_CHECK(out.size(dim) == want[dim], op, ": gradient.size(", dim, ") must be ", want[dim],
                  ", got ", out.size(dim));
}

}  // namespace fastmte
