// SPDX-License-Identifier: Apache-2.0
#include "parallel/gather_values.hpp"

#include <algorithm>
#include <cmath>

namespace portolan {
namespace {

/// Every rank's row of `width` numbers, each exact in f32.
std::vector<float> gather_rows(Communicator& communicator, std::vector<float> row) {
  const auto width = static_cast<std::int64_t>(row.size());
  std::vector<float> all(row.size() * static_cast<std::size_t>(communicator.size()));
  const Device host{DeviceKind::cpu, 0};
  communicator.all_gather(
      Tensor::borrow(row.data(), {1, width}, DType::f32, host),
      Tensor::borrow(all.data(), {communicator.size(), width}, DType::f32, host), 0,
      Partition::even(communicator.size(), communicator.size()));
  return all;
}

}  // namespace

std::vector<double> gather_values(Communicator& communicator, double value) {
  const auto high = static_cast<float>(value);
  const auto low = static_cast<float>(value - static_cast<double>(high));
  const std::vector<float> rows = gather_rows(communicator, {high, low});
  std::vector<double> values;
  for (std::size_t i = 0; i < rows.size(); i += 2) {
    values.push_back(static_cast<double>(rows[i]) + static_cast<double>(rows[i + 1]));
  }
  return values;
}

double largest_value(Communicator& communicator, double value) {
  const std::vector<double> values = gather_values(communicator, value);
  return *std::ranges::max_element(values);
}

std::vector<std::string> gather_texts(Communicator& communicator, const std::string& text) {
  const std::vector<double> lengths = gather_values(communicator, static_cast<double>(text.size()));
  const auto longest = static_cast<std::size_t>(*std::ranges::max_element(lengths));
  std::vector<std::string> texts(lengths.size());
  if (longest == 0) return texts;
  std::vector<float> row(longest, 0.0F);
  std::ranges::transform(text, row.begin(), [](char character) {
    return static_cast<float>(static_cast<unsigned char>(character));
  });
  const std::vector<float> rows = gather_rows(communicator, row);
  for (std::size_t rank = 0; rank < texts.size(); ++rank) {
    for (std::size_t i = 0; i < static_cast<std::size_t>(lengths[rank]); ++i) {
      texts[rank] += static_cast<char>(static_cast<unsigned char>(rows[rank * longest + i]));
    }
  }
  return texts;
}

}  // namespace portolan
