// The arithmetic of pool_act for one kind of vector; see each_isa.h.

namespace fastmte::FASTMTE_ISA {
namespace {

FASTMTE_TARGET FASTMTE_INLINE Vector activate(Vector x, Activation activation) {
  if (activation == Activation::kElu) return elu(x);
  return activation == Activation::kRelu ? relu(x) : x;
}

// Output rows [begin, end), counted over all songs. Bound by memory: every value is read once.
template <typename T>
FASTMTE_TARGET void pool_act_rows(const T* x, const PoolSizes& sizes, Activation activation, T* out,
                                  int64_t begin, int64_t end) {
  const int64_t channels = sizes.channels, row_stride = sizes.columns * channels;
  for (int64_t at = begin; at < end; ++at) {
    const int64_t song = at / sizes.pooled_rows(), row = at % sizes.pooled_rows();
    const T* window = x + (song * sizes.rows + row * sizes.window_rows) * row_stride;
    T* to = out + at * sizes.pooled_columns() * channels;
    for (int64_t column = 0; column < sizes.pooled_columns(); ++column) {
      for (int64_t c = 0; c < channels; c += kWidth) {
        Vector largest = load_first(window + c, channels - c);
        for (int64_t i = 0; i < sizes.window_rows; ++i)
          for (int64_t j = 0; j < sizes.window_columns; ++j) {
            const T* from = window + i * row_stride + j * channels + c;
            // The new value first: whether it is NaN does not wait for the values before.
            largest = max_keeping_nan(load_first(from, channels - c), largest);
          }
        store_first(to + c, activate(largest, activation), channels - c);
      }
      window += sizes.window_columns * channels;
      to += channels;
    }
  }
}

}  // namespace
}  // namespace fastmte::FASTMTE_ISA
