// SPDX-License-Identifier: Apache-2.0
#include "parallel/gather_values.hpp"

#include <algorithm>
#include <cstring>
#include <span>

namespace portolan {
namespace {

/// Every rank's `own`, of one size on all ranks, one after the other.
std::vector<std::byte> gather_bytes(Communicator& communicator, std::span<const std::byte> own) {
  const auto bytes = static_cast<std::int64_t>(own.size());
  const int ranks = communicator.size();
  std::vector<std::byte> all(own.size() * static_cast<std::size_t>(ranks));
  const Device host{DeviceKind::cpu, 0};
  communicator.all_gather(
      Tensor::borrow(const_cast<std::byte*>(own.data()), {1, bytes}, DType::u8, host),
      Tensor::borrow(all.data(), {ranks, bytes}, DType::u8, host), 0,
      Partition::even(ranks, ranks));
  return all;
}

}  // namespace

std::vector<double> gather_values(Communicator& communicator, double value) {
  const std::vector<std::byte> bytes =
      gather_bytes(communicator, std::as_bytes(std::span(&value, 1)));
  std::vector<double> values(static_cast<std::size_t>(communicator.size()));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

double largest_value(Communicator& communicator, double value) {
  const std::vector<double> values = gather_values(communicator, value);
  return *std::ranges::max_element(values);
}

std::vector<std::string> gather_texts(Communicator& communicator, const std::string& text) {
  const std::vector<double> lengths = gather_values(communicator, static_cast<double>(text.size()));
  const auto longest = static_cast<std::size_t>(*std::ranges::max_element(lengths));
  std::string padded = text;
  padded.resize(longest);
  const std::vector<std::byte> bytes = gather_bytes(communicator, std::as_bytes(std::span(padded)));
  std::vector<std::string> texts;
  for (std::size_t rank = 0; rank < lengths.size(); ++rank) {
    texts.emplace_back(reinterpret_cast<const char*>(bytes.data()) + rank * longest,
                       static_cast<std::size_t>(lengths[rank]));
  }
  return texts;
}

}  // namespace portolan
