// What residual_blocks accepts, and the sizes of its blocks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "conv_pool_act.h"

namespace fastmte {

// A block's convolution, and the 1 x 1 convolutions of what it gives and of the block's input.
struct ResidualSizes {
  ConvSizes conv, project, shortcut;
  bool has_shortcut;

  int64_t n_weights() const {
    return conv.outputs * (conv.kernel_rows * conv.kernel_columns * conv.inputs) +
           project.outputs * (project.inputs + (has_shortcut ? shortcut.inputs : 0));
  }
};

inline void check_packed(const char* op, const std::string& name, const Tensor& weight,
                         const Tensor& x) {
  check_tensor(op, name.c_str(), weight, 8, {ScalarType::BFloat16}, x);
  check_tiles(op, name.c_str(), weight);
  check_at_least(op, (name + ".size(0)").c_str(), weight.size(0), 1);
}

inline void check_kernel(const char* op, const std::string& name, const Tensor& weight,
                         bool is_point) {
  for (int i = 1; i < 3; ++i)
    FASTMTE_CHECK(is_point ? weight.size(i) == 1 : weight.size(i) % 2 == 1, op, ": ", name,
                  ".size(", i, ") must be ", is_point ? "1" : "odd", ", got ", weight.size(i));
}

inline ResidualSizes check_residual_block(const std::string& at, const ConvSizes& before,
                                          const Tensor& weight, const Tensor& project,
                                          const Tensor& shortcut, int64_t stride, const Tensor& x) {
  constexpr const char* kOp = "residual_blocks";
  check_packed(kOp, "weight" + at, weight, x);
  check_kernel(kOp, "weight" + at, weight, false);
  check_packed(kOp, "project" + at, project, x);
  check_kernel(kOp, "project" + at, project, true);
  check_at_least(kOp, ("stride" + at).c_str(), stride, 1);
  const auto inputs = [](const Tensor& w) { return w.size(3) * kConvInputs; };
  const auto outputs = [](const Tensor& w) { return w.size(0) * kConvOutputs; };
  const std::string maps = "the maps' channels";
  check_equal(kOp, ("inputs of weight" + at).c_str(), inputs(weight), maps.c_str(), before.outputs);
  check_equal(kOp, ("inputs of project" + at).c_str(), inputs(project), "the weight's outputs",
              outputs(weight));
  ResidualSizes sizes{};
  sizes.conv = {before.n_songs,
                before.rows,
                before.columns,
                before.outputs,
                outputs(weight),
                weight.size(1),
                weight.size(2),
                stride,
                stride,
                weight.size(1) / 2,
                weight.size(2) / 2,
                1,
                1};
  const int64_t rows = sizes.conv.out_rows(), columns = sizes.conv.out_columns();
  sizes.project = {
      before.n_songs, rows, columns, outputs(weight), outputs(project), 1, 1, 1, 1, 0, 0, 1, 1};
  sizes.has_shortcut = shortcut.numel() > 0;
  if (!sizes.has_shortcut) {
    FASTMTE_CHECK(stride == 1 && outputs(project) == before.outputs, kOp, ": shortcut", at,
                  " must not be empty where the shape changes");
    return sizes;
  }
  check_packed(kOp, "shortcut" + at, shortcut, x);
  check_kernel(kOp, "shortcut" + at, shortcut, true);
  check_equal(kOp, ("inputs of shortcut" + at).c_str(), inputs(shortcut), maps.c_str(),
              before.outputs);
  check_equal(kOp, ("outputs of shortcut" + at).c_str(), outputs(shortcut), "the project's outputs",
              outputs(project));
  sizes.shortcut = {before.n_songs,
                    before.rows,
                    before.columns,
                    before.outputs,
                    outputs(project),
                    1,
                    1,
                    stride,
                    stride,
                    0,
                    0,
                    1,
                    1};
  return sizes;
}

inline std::vector<ResidualSizes> check_residual_blocks(const Tensor& x,
                                                        const std::vector<Tensor>& weight,
                                                        const std::vector<Tensor>& project,
                                                        const std::vector<Tensor>& shortcut,
                                                        const std::vector<Tensor>& bias,
                                                        const std::vector<int64_t>& stride) {
  constexpr const char* kOp = "residual_blocks";
  check_tensor(kOp, "x", x, 4, {ScalarType::BFloat16}, x);
  const int64_t n = weight.size();
  check_at_least(kOp, "blocks", n, 1);
  check_maps(kOp, x);
  check_equal(kOp, "project", project.size(), "weight", n);
  check_equal(kOp, "shortcut", shortcut.size(), "weight", n);
  check_equal(kOp, "stride", stride.size(), "weight", n);
  check_equal(kOp, "bias", bias.size(), "twice weight", 2 * n);
  std::vector<ResidualSizes> all;
  ConvSizes before{x.size(0), x.size(1), x.size(2), 0, x.size(3), 1, 1, 1, 1, 0, 0, 1, 1};
  for (int64_t i = 0; i < n; ++i) {
    const std::string at = "[" + std::to_string(i) + "]";
    all.push_back(
        check_residual_block(at, before, weight[i], project[i], shortcut[i], stride[i], x));
    before = all.back().project;
    const int64_t outputs[2] = {all.back().conv.outputs, before.outputs};
    for (int j = 0; j < 2; ++j) {
      const std::string name = "bias[" + std::to_string(2 * i + j) + "]";
      check_tensor(kOp, name.c_str(), bias[2 * i + j], 1, {ScalarType::Float}, x);
      check_equal(kOp, (name + ".size(0)").c_str(), bias[2 * i + j].size(0), "the outputs",
                  outputs[j]);
    }
  }
  return all;
}

}  // namespace fastmte
