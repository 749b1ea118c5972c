// residual_blocks on the CPU: a convolution, one of 1 x 1 and a shortcut, block after block.
//
// A map of the first blocks is larger than the second-level cache, and their weights are not. So
// blocks of few weights run together: a row of the last asks for the rows of the block before that
// it reads, and only these are held. Blocks of many weights run one after another, so that their
// weights are read once.
#include "residual_blocks.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "cpu/conv_rows.h"

namespace fastmte {
namespace {

constexpr int64_t kFewWeights = 1 << 18;       // of a block that runs with others
constexpr int64_t kWeightsTogether = 1 << 19;  // of all that do

// One block's arrays, contiguous.
struct Block {
  const BFloat16 *weight, *project, *shortcut;
  const float *bias, *project_bias;
  ResidualSizes sizes;
};

// Rows of maps, all or some of them; see ConvSource.
struct Rows {
  BFloat16* data;
  int64_t n_held;
};

int64_t n_rows(const ConvSizes& sizes) { return sizes.n_songs * sizes.out_rows(); }

int64_t row_size(const ConvSizes& sizes) { return sizes.out_columns() * sizes.outputs; }

Conv first_conv(const Block& block, Rows x, Rows middle) {
  Conv conv{};
  conv.sources[0] = {x.data, block.weight, block.sizes.conv, x.n_held};
  conv.n_sources = 1;
  conv.bias = block.bias;
  conv.out = middle.data;
  conv.out_held = middle.n_held;
  conv.activation = Activation::kRelu;
  return conv;
}

Conv second_conv(const Block& block, Rows x, Rows middle, Rows out) {
  Conv conv{};
  conv.sources[0] = {middle.data, block.project, block.sizes.project, middle.n_held};
  conv.n_sources = 1;
  if (block.sizes.has_shortcut) {
    conv.sources[1] = {x.data, block.shortcut, block.sizes.shortcut, x.n_held};
    conv.n_sources = 2;
  } else {
    conv.onto = x.data;
    conv.onto_held = x.n_held;
  }
  conv.bias = block.project_bias;
  conv.out = out.data;
  conv.out_held = out.n_held;
  conv.activation = Activation::kRelu;
  return conv;
}

// Blocks that run together, on one thread.
class Chain {
 public:
  Chain(const std::vector<Block>& blocks, Rows x, Rows out) {
    buffers_.reserve(2 * blocks.size());
    for (size_t i = 0; i < blocks.size(); ++i) {
      const Block& block = blocks[i];
      const Rows middle = held(1, block.sizes.conv);
      const Rows after = i + 1 < blocks.size() ? held_for(blocks[i + 1].sizes.conv) : out;
      steps_.push_back({first_conv(block, x, middle), conv_pass(first_conv(block, x, middle))});
      const Conv second = second_conv(block, x, middle, after);
      steps_.push_back({second, conv_pass(second)});
      x = after;
    }
  }

  void run(int64_t begin, int64_t end) {
    steps_.back().next = begin;
    for (size_t i = steps_.size(); i-- > 1;) {
      const ConvSizes& sizes = steps_[i].conv.sizes();
      const int64_t song = steps_[i].next / sizes.out_rows();
      const int64_t row = steps_[i].next % sizes.out_rows();
      steps_[i - 1].next =
          song * sizes.rows + std::max(int64_t{0}, row * sizes.row_stride - sizes.row_pad);
    }
    make(steps_.size() - 1, end);
  }

 private:
  struct Step {
    Conv conv;
    std::unique_ptr<ConvPass> pass;
    int64_t next = 0;  // row
  };

  Rows held(int64_t n, const ConvSizes& sizes) {
    buffers_.emplace_back(n * row_size(sizes));
    return {buffers_.back().data(), n};
  }

  // Of the input of a block: what a row of its convolution reads, and so of its shortcut.
  Rows held_for(const ConvSizes& sizes) {
    const int64_t n = std::min(sizes.kernel_rows + sizes.row_stride, sizes.n_songs * sizes.rows);
    buffers_.emplace_back(n * sizes.columns * sizes.inputs);
    return {buffers_.back().data(), n};
  }

  // Makes the rows of a step before `end` that are missing, in their order.
  void make(size_t i, int64_t end) {
    Step& step = steps_[i];
    const ConvSizes& sizes = step.conv.sizes();
    for (; step.next < end; ++step.next) {
      const int64_t song = step.next / sizes.out_rows(), row = step.next % sizes.out_rows();
      const int64_t last = row * sizes.row_stride - sizes.row_pad + sizes.kernel_rows;
      if (i > 0) make(i - 1, song * sizes.rows + std::min(last, sizes.rows));
      step.pass->run(step.next, step.next + 1, 0, step.conv.n_blocks());
    }
  }

  std::vector<Aligned<BFloat16>> buffers_;
  std::vector<Step> steps_;
};

void run_chain(const std::vector<Block>& blocks, Rows x, Rows out) {
  torch::stable::parallel_for(
      0, n_rows(blocks.back().sizes.project), 1,
      [&](int64_t begin, int64_t end) { Chain(blocks, x, out).run(begin, end); });
}

// See fastmte/ops.py.
Tensor residual_blocks(const Tensor& x_, std::vector<Tensor> weight, std::vector<Tensor> project,
                       std::vector<Tensor> shortcut, std::vector<Tensor> bias,
                       std::vector<int64_t> stride) {
  const std::vector<ResidualSizes> sizes =
      check_residual_blocks(x_, weight, project, shortcut, bias, stride);
  std::vector<Tensor> kept;  // contiguous ones
  const auto values = [&kept](const Tensor& tensor) {
    kept.push_back(torch::stable::contiguous(tensor));
    return kept.back().const_data_ptr();
  };
  const auto halves = [&values](const Tensor& tensor) {
    return static_cast<const BFloat16*>(values(tensor));
  };
  Rows x{const_cast<BFloat16*>(halves(x_)), x_.size(0) * x_.size(1)};  // is only read
  Tensor out = x_;
  for (size_t i = 0; i < sizes.size();) {
    const bool is_chain = sizes[i].n_weights() <= kFewWeights;
    std::vector<Block> blocks;
    for (int64_t n_left = kWeightsTogether; i < sizes.size(); ++i) {
      const int64_t n = sizes[i].n_weights();
      if (!blocks.empty() && !(is_chain && n <= kFewWeights && n <= n_left)) break;
      n_left -= n;
      blocks.push_back({halves(weight[i]), halves(project[i]), halves(shortcut[i]),
                        static_cast<const float*>(values(bias[2 * i])),
                        static_cast<const float*>(values(bias[2 * i + 1])), sizes[i]});
    }
    const ConvSizes& last = blocks.back().sizes.project;
    out = torch::stable::new_empty(
        x_, {last.n_songs, last.out_rows(), last.out_columns(), last.outputs});
    kept.push_back(out);
    const Rows after{static_cast<BFloat16*>(out.mutable_data_ptr()), n_rows(last)};
    if (is_chain) {
      run_chain(blocks, x, after);
    } else {
      Tensor middle = torch::stable::new_empty(
          x_, {last.n_songs, last.out_rows(), last.out_columns(), last.inputs});
      const Rows between{static_cast<BFloat16*>(middle.mutable_data_ptr()), n_rows(last)};
      run_conv(first_conv(blocks[0], x, between));
      run_conv(second_conv(blocks[0], x, between, after));
    }
    x = after;
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CPU, m) {
  m.impl("residual_blocks", TORCH_BOX(&residual_blocks));
}

}  // namespace fastmte
