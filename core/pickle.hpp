// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

/// Reading of Python pickles as data. Python's own reader runs whatever a pickle names; this one
/// builds a description of the values and never calls, imports or executes anything.
namespace portolan {

/// Position of a value in its document. Values may refer to each other in any way, also in circles.
using PickleReference = std::uint32_t;

struct PickleNone {};
/// "module.name".
struct PickleGlobal {
  std::string name;
};
struct PickleTuple {
  std::vector<PickleReference> items;
};
struct PickleList {
  std::vector<PickleReference> items;
};
/// A dict or an OrderedDict, in the order of the file; keys may repeat.
struct PickleDictionary {
  std::vector<std::pair<PickleReference, PickleReference>> items;
};
/// A global and the arguments it was to be called with.
struct PickleCall {
  PickleReference function = 0;
  PickleReference arguments = 0;
};
/// A value that lies outside the pickle, by the identifier that its writer gave it.
struct PicklePersistent {
  PickleReference identifier = 0;
};

using PickleValue =
    std::variant<PickleNone, bool, std::int64_t, double, std::string, PickleGlobal, PickleTuple,
                 PickleList, PickleDictionary, PickleCall, PicklePersistent>;

struct PickleDocument {
  std::vector<PickleValue> values;
  PickleReference root = 0;

  [[nodiscard]] const PickleValue& at(PickleReference reference) const {
    return values.at(reference);
  }
  /// The value if it is of that kind, else nullptr.
  template <typename Kind>
  [[nodiscard]] const Kind* get(PickleReference reference) const {
    return std::get_if<Kind>(&values.at(reference));
  }
};

struct PickleLimits {
  std::size_t bytes = std::size_t{64} << 20;
  /// Values of the document. What is on the reader's stack and in its memo is bounded by the same
  /// number, so memory is too.
  std::size_t values = std::size_t{1} << 20;
};

/// Reads a pickle of protocol 2 with the opcodes that torch.save makes it of. `allowed_globals`
/// ("module.name") are what it may name; collections.OrderedDict among them is read as a
/// dictionary, whose attributes are dropped. Needs no stack that grows with the pickle. Throws
/// InputError "SOURCE: byte N: ..." that names the opcode or the global for everything else, for a
/// pickle beyond the limits, and for one that is not whole.
[[nodiscard]] PickleDocument parse_pickle(std::span<const std::byte> pickle,
                                          const std::string& source,
                                          std::span<const std::string_view> allowed_globals,
                                          const PickleLimits& limits = {});

/// What a value is, for "found ...": `the string "8"`, `a list`, `the global torch.Size`.
[[nodiscard]] std::string describe(const PickleValue& value);

}  // namespace portolan
