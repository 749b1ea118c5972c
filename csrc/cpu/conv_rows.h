// bfloat16 convolutions on the CPU, row by row: what conv_pool_act and residual_blocks are made of.
#pragma once

#include <cstdint>
#include <memory>

#include "cpu/conv_input.h"

namespace fastmte {

// One convolution on one thread, with the buffers it needs.
class ConvPass {
 public:
  virtual ~ConvPass() = default;

  // Rows [begin, end) of the output, counted over all songs, of blocks [first, last) of channels.
  virtual void run(int64_t begin, int64_t end, int64_t first, int64_t last) = 0;
};

// Call it from the thread that runs it.
std::unique_ptr<ConvPass> conv_pass(const Conv& conv);

// All rows, on all threads. Each sum has one order: any number of threads gives the same bits.
void run_conv(const Conv& conv);

}  // namespace fastmte
