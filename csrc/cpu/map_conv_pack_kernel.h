// The arithmetic of map_conv_pack for one kind of vector; see each_isa.h. Bound by memory.
#include "map_parts.h"

namespace fastmte::FASTMTE_ISA {
namespace {

// 32 outputs at one tap and 32 inputs of weights (O, taps, I), rounded.
struct RoundedBlock {
  BFloat16 values[32][32];

  FASTMTE_TARGET void read(const float* from, int64_t pitch) {
    for (int64_t o = 0; o < 32; ++o)
      for (int64_t i = 0; i < 32; i += kWidth) store(values[o] + i, load(from + o * pitch + i));
  }

  // Two tiles of 16 outputs, inputs in pairs.
  FASTMTE_TARGET void put_ahead(BFloat16* to) const {
    for (int64_t o = 0; o < 32; o += kWidth)
      for (int64_t i = 0; i < 32; i += 2 * kWidth) {
        Vector x[kWidth];
        for (int k = 0; k < kWidth; ++k) std::memcpy(&x[k], values[o + k] + i, sizeof x[k]);
        transpose(x);
        BFloat16* tile = to + o / 16 * (16 * 32) + i * 16 + o % 16 * 2;
        for (int k = 0; k < kWidth; ++k) store_pairs(tile + k * 32, (Bits)x[k]);
      }
  }

  // Two tiles of 16 inputs, outputs in pairs.
  FASTMTE_TARGET void put_back(BFloat16* to) const {
    for (int64_t i = 0; i < 32; i += kWidth)
      for (int64_t o = 0; o < 32; o += 2)
        store_pairs(to + i / 16 * (16 * 32) + o * 16 + i % 16 * 2,
                    paired(values[o] + i, values[o + 1] + i));
  }
};

// Outputs [output, output + 32) of weights (O, taps, I), in both orders.
FASTMTE_TARGET void pack_outputs(const MapWeights& weights, int64_t output) {
  constexpr int64_t kTiles = 32 * 32;
  const int64_t n_taps = weights.n_taps, n_inputs = weights.inputs / kMapBlock,
                n_outputs = weights.outputs / kMapBlock, block = output / kMapBlock;
  const int64_t pitch = n_taps * weights.inputs;
  for (int64_t tap = 0; tap < n_taps; ++tap)
    for (int64_t i = 0; i < n_inputs; ++i) {
      RoundedBlock rounded;
      rounded.read(weights.weight + output * pitch + tap * weights.inputs + i * kMapBlock, pitch);
      rounded.put_ahead(weights.ahead + ((block * n_taps + tap) * n_inputs + i) * kTiles);
      const int64_t flipped = n_taps - 1 - tap;
      rounded.put_back(weights.back + ((i * n_taps + flipped) * n_outputs + block) * kTiles);
    }
}

}  // namespace
}  // namespace fastmte::FASTMTE_ISA
