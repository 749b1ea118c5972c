// What the convolutions of training share, for one kind of vector; see each_isa.h.

namespace fastmte::FASTMTE_ISA {
namespace {

// Sums of 2 `rows` rows and 32 columns, by the compiler's own multiply-adds.
class PlainMapTiles {
 public:
  explicit PlainMapTiles(int64_t rows) : rows_(rows) {}

  void zero() { std::memset(sums_, 0, sizeof sums_); }

  void load(const float* sums, int64_t pitch) {
    for (int64_t row = 0; row < 2 * rows_; ++row)
      std::memcpy(sums_[row], sums + row * pitch, sizeof sums_[row]);
  }

  void store(float* sums, int64_t pitch) {
    for (int64_t row = 0; row < 2 * rows_; ++row)
      std::memcpy(sums + row * pitch, sums_[row], sizeof sums_[row]);
  }

  // Adds the product of a (2 rows, 32) and of b (32, 32), whose halves of 16 columns hold the
  // values of two rows side by side.
  FASTMTE_TARGET void step(const BFloat16* a, int64_t pitch, const BFloat16* left,
                           const BFloat16* right) {
    for (int64_t row = 0; row < 2 * rows_; ++row, a += pitch)
      for (int64_t k = 0; k < 32; k += 2)
        for (int64_t column = 0; column < 32; column += kWidth) {
          const BFloat16* b = (column < 16 ? left : right) + k * 16 + column % 16 * 2;
          Bits pairs;
          std::memcpy(&pairs, b, sizeof pairs);
          Vector sum = fastmte::FASTMTE_ISA::load(sums_[row] + column);
          sum = fma(broadcast(static_cast<float>(a[k])), (Vector)(pairs << 16), sum);
          sum = fma(broadcast(static_cast<float>(a[k + 1])), (Vector)(pairs & kUpperHalf), sum);
          fastmte::FASTMTE_ISA::store(sums_[row] + column, sum);
        }
  }

  // Copies 32 sums to where they are not read soon.
  static void put(const float* sums, float* to) { std::memcpy(to, sums, 32 * sizeof(float)); }
  static void end_puts() {}

 private:
  static constexpr int32_t kUpperHalf = static_cast<int32_t>(0xffff0000);

  int64_t rows_;
  float sums_[32][32];
};

// Lane i holds value i of `even` in its lower half and of `odd` in its upper; null is zeros.
FASTMTE_TARGET FASTMTE_INLINE Bits paired(const BFloat16* even, const BFloat16* odd) {
  Bits pairs{};
  if (even) pairs = ((Bits)load(even) >> 16) & 0xffff;
  if (odd) pairs |= (Bits)load(odd);
  return pairs;
}

FASTMTE_TARGET FASTMTE_INLINE void store_pairs(BFloat16* to, Bits pairs) {
  std::memcpy(static_cast<void*>(to), &pairs, sizeof pairs);
}

inline void zeros(BFloat16* to, int64_t n) {
  std::memset(static_cast<void*>(to), 0, n * sizeof(BFloat16));
}

}  // namespace
}  // namespace fastmte::FASTMTE_ISA
