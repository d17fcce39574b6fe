// SPDX-License-Identifier: Apache-2.0
#include "core/pickle.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <optional>
#include <unordered_map>

#include "core/error.hpp"
#include "core/printable.hpp"

namespace portolan {
namespace {

constexpr std::string_view kOrderedDictionary = "collections.OrderedDict";

/// Opcodes that are read, and below those that are only named in messages, by the names and numbers
/// of Python's documentation of the format (module pickletools).
enum class Opcode : std::uint8_t {
  mark = '(',
  stop = '.',
  bin_float = 'G',
  bin_int = 'J',
  bin_int1 = 'K',
  bin_int2 = 'M',
  none = 'N',
  bin_persistent_id = 'Q',
  reduce = 'R',
  short_bin_string = 'U',
  bin_unicode = 'X',
  append = 'a',
  build = 'b',
  global = 'c',
  empty_list = ']',
  empty_tuple = ')',
  empty_dict = '}',
  appends = 'e',
  bin_get = 'h',
  long_bin_get = 'j',
  bin_put = 'q',
  long_bin_put = 'r',
  set_item = 's',
  tuple = 't',
  set_items = 'u',
  protocol = 0x80,
  tuple1 = 0x85,
  tuple2 = 0x86,
  tuple3 = 0x87,
  new_true = 0x88,
  new_false = 0x89,
  long1 = 0x8A,
};

struct OpcodeName {
  std::uint8_t code;
  std::string_view name;
};

constexpr std::array<OpcodeName, 31> kRefusedOpcodes{{{'0', "POP"},
                                                      {'1', "POP_MARK"},
                                                      {'2', "DUP"},
                                                      {'B', "BINBYTES"},
                                                      {'C', "SHORT_BINBYTES"},
                                                      {'F', "FLOAT"},
                                                      {'I', "INT"},
                                                      {'L', "LONG"},
                                                      {'P', "PERSID"},
                                                      {'S', "STRING"},
                                                      {'T', "BINSTRING"},
                                                      {'V', "UNICODE"},
                                                      {'d', "DICT"},
                                                      {'g', "GET"},
                                                      {'i', "INST"},
                                                      {'l', "LIST"},
                                                      {'o', "OBJ"},
                                                      {'p', "PUT"},
                                                      {0x81, "NEWOBJ"},
                                                      {0x82, "EXT1"},
                                                      {0x83, "EXT2"},
                                                      {0x84, "EXT4"},
                                                      {0x8B, "LONG4"},
                                                      {0x8C, "SHORT_BINUNICODE"},
                                                      {0x8D, "BINUNICODE8"},
                                                      {0x8F, "EMPTY_SET"},
                                                      {0x92, "NEWOBJ_EX"},
                                                      {0x93, "STACK_GLOBAL"},
                                                      {0x94, "MEMOIZE"},
                                                      {0x95, "FRAME"},
                                                      {0x96, "BYTEARRAY8"}}};

std::string opcode_text(std::uint8_t code) {
  for (const OpcodeName& each : kRefusedOpcodes) {
    if (each.code == code) return fmt::format("opcode {} (0x{:02x})", each.name, code);
  }
  return fmt::format("opcode 0x{:02x}", code);
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const std::size_t length = utf8_character_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

class PickleReader {
 public:
  PickleReader(std::span<const std::byte> pickle, const std::string& source,
               std::span<const std::string_view> allowed_globals, const PickleLimits& limits)
      : pickle_(pickle), source_(source), allowed_globals_(allowed_globals), limits_(limits) {}

  PickleDocument read() {
    if (pickle_.size() > limits_.bytes) {
      throw InputError(fmt::format("{}: expected a pickle of at most {} bytes, found {}", source_,
                                   limits_.bytes, pickle_.size()));
    }
    if (static_cast<Opcode>(number<std::uint8_t>()) != Opcode::protocol) {
      fail("expected opcode PROTO, with which every pickle of protocol 2 starts");
    }
    const auto version = number<std::uint8_t>();
    if (version != 2) fail(fmt::format("expected protocol 2, found {}", version));
    while (step()) {
    }
    document_.root = pop();
    if (!stack_.empty() || !marks_.empty()) {
      fail(fmt::format("expected one value at the end, found {} more",
                       stack_.size() + marks_.size()));
    }
    if (position_ != pickle_.size()) {
      fail(fmt::format("{} bytes follow the end", pickle_.size() - position_));
    }
    return std::move(document_);
  }

 private:
  [[noreturn]] void fail(const std::string& message) const {
    throw InputError(fmt::format("{}: byte {}: {}", source_, opcode_position_, message));
  }

  std::span<const std::byte> take(std::size_t count) {
    if (count > pickle_.size() - position_) {
      fail(fmt::format("expected {} more bytes, found the end after {}", count,
                       pickle_.size() - position_));
    }
    position_ += count;
    return pickle_.subspan(position_ - count, count);
  }

  /// Little-endian.
  template <typename Number>
  Number number() {
    std::uint64_t bits = 0;
    const auto bytes = take(sizeof(Number));
    for (std::size_t i = 0; i < sizeof(Number); ++i) {
      bits |= std::to_integer<std::uint64_t>(bytes[i]) << (8 * i);
    }
    return static_cast<Number>(bits);
  }

  std::string text(std::size_t length) {
    const auto bytes = take(length);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  std::string line() {
    const auto rest = pickle_.subspan(position_);
    const auto end = std::find(rest.begin(), rest.end(), std::byte{'\n'});
    if (end == rest.end()) fail("expected a line, found the end");
    std::string result = text(static_cast<std::size_t>(end - rest.begin()));
    ++position_;
    return result;
  }

  // --- the stack ---------------------------------------------------------------------------------

  void push(PickleReference reference) {
    // One count for all: values, what is on the stack, and what containers refer to.
    if (++pushes_ > limits_.values) fail(fmt::format("more than {} values", limits_.values));
    stack_.push_back(reference);
  }

  void push_value(PickleValue value) {
    push(static_cast<PickleReference>(document_.values.size()));
    document_.values.push_back(std::move(value));
  }

  [[nodiscard]] std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }

  PickleReference pop() {
    if (stack_.size() <= floor()) fail("expected a value on the stack, found none");
    const PickleReference reference = stack_.back();
    stack_.pop_back();
    return reference;
  }

  /// The values above the last mark, which goes away.
  std::vector<PickleReference> pop_to_mark() {
    if (marks_.empty()) fail("expected a mark on the stack, found none");
    const auto first = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<PickleReference> items(first, stack_.end());
    stack_.erase(first, stack_.end());
    marks_.pop_back();
    return items;
  }

  std::vector<PickleReference> pop_several(std::size_t count) {
    std::vector<PickleReference> items(count);
    while (count > 0) items[--count] = pop();
    return items;
  }

  /// The container on top of the stack.
  template <typename Container>
  Container& top(std::string_view what) {
    if (stack_.size() <= floor()) fail(fmt::format("expected {}, found nothing", what));
    PickleValue& value = document_.values[stack_.back()];
    auto* container = std::get_if<Container>(&value);
    if (container == nullptr) fail(fmt::format("expected {}, found {}", what, describe(value)));
    return *container;
  }

  void append(const std::vector<PickleReference>& items) {
    auto& list = top<PickleList>("a list to append to").items;
    list.insert(list.end(), items.begin(), items.end());
  }

  void set_items(const std::vector<PickleReference>& items) {
    auto& dictionary = top<PickleDictionary>("a dictionary to add to").items;
    if (items.size() % 2 != 0) fail("expected keys and values in pairs, found a key without value");
    for (std::size_t i = 0; i < items.size(); i += 2) {
      dictionary.emplace_back(items[i], items[i + 1]);
    }
  }

  // --- opcodes with a rule of their own ----------------------------------------------------------

  void put(std::uint32_t index) {
    if (stack_.size() <= floor()) fail("expected a value to remember, found none");
    if (memo_.size() >= limits_.values) fail(fmt::format("more than {} values", limits_.values));
    memo_[index] = stack_.back();
  }

  void get(std::uint32_t index) {
    const auto found = memo_.find(index);
    if (found == memo_.end()) {
      fail(fmt::format("expected a remembered value {}, found none", index));
    }
    push(found->second);
  }

  void push_global() {
    std::string name = line();
    name += '.';
    name += line();
    if (std::find(allowed_globals_.begin(), allowed_globals_.end(), name) ==
        allowed_globals_.end()) {
      fail(fmt::format("global '{}': not one of those that tensors are made of", printable(name)));
    }
    push_value(PickleGlobal{std::move(name)});
  }

  void reduce() {
    const PickleReference arguments = pop();
    const PickleReference function = pop();
    const auto* global = document_.get<PickleGlobal>(function);
    if (global == nullptr) {
      fail(fmt::format("expected a global to call, found {}", describe(document_.at(function))));
    }
    const auto* tuple = document_.get<PickleTuple>(arguments);
    if (tuple == nullptr) {
      fail(fmt::format("expected a tuple of arguments, found {}",
                       describe(document_.at(arguments))));
    }
    if (global->name != kOrderedDictionary) {
      push_value(PickleCall{function, arguments});
    } else if (tuple->items.empty()) {
      push_value(PickleDictionary{});
    } else {
      fail("expected collections.OrderedDict without arguments");
    }
  }

  void push_long() {
    const auto bytes = take(number<std::uint8_t>());
    if (bytes.size() > sizeof(std::int64_t)) {
      fail(fmt::format("expected an integer of 64 bits, found one of {} bytes", bytes.size()));
    }
    const bool negative = !bytes.empty() && (bytes.back() & std::byte{0x80}) != std::byte{0};
    std::uint64_t bits = negative ? ~std::uint64_t{0} : 0;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      bits &= ~(std::uint64_t{0xFF} << (8 * i));
      bits |= std::to_integer<std::uint64_t>(bytes[i]) << (8 * i);
    }
    push_value(static_cast<std::int64_t>(bits));
  }

  void push_float() {
    std::uint64_t bits = 0;  // big-endian, unlike all else
    for (const std::byte byte : take(sizeof(double))) {
      bits = bits << 8 | std::to_integer<std::uint64_t>(byte);
    }
    push_value(std::bit_cast<double>(bits));
  }

  void push_text(std::size_t length) {
    std::string value = text(length);
    if (!is_utf8(value)) fail(fmt::format("'{}' is not UTF-8", printable(value)));
    push_value(std::move(value));
  }

  /// False after the last opcode.
  bool step() {
    opcode_position_ = position_;
    const auto code = number<std::uint8_t>();
    switch (static_cast<Opcode>(code)) {
      case Opcode::stop:
        return false;
      case Opcode::mark:
        if (marks_.size() >= limits_.values) fail(fmt::format("more than {} marks", marks_.size()));
        marks_.push_back(stack_.size());
        break;
      case Opcode::none:
        push_value(PickleNone{});
        break;
      case Opcode::new_true:
        push_value(true);
        break;
      case Opcode::new_false:
        push_value(false);
        break;
      case Opcode::bin_int:
        push_value(std::int64_t{static_cast<std::int32_t>(number<std::uint32_t>())});
        break;
      case Opcode::bin_int1:
        push_value(std::int64_t{number<std::uint8_t>()});
        break;
      case Opcode::bin_int2:
        push_value(std::int64_t{number<std::uint16_t>()});
        break;
      case Opcode::long1:
        push_long();
        break;
      case Opcode::bin_float:
        push_float();
        break;
      case Opcode::short_bin_string:
        push_text(number<std::uint8_t>());
        break;
      case Opcode::bin_unicode:
        push_text(number<std::uint32_t>());
        break;
      case Opcode::empty_list:
        push_value(PickleList{});
        break;
      case Opcode::empty_tuple:
        push_value(PickleTuple{});
        break;
      case Opcode::empty_dict:
        push_value(PickleDictionary{});
        break;
      case Opcode::append:
        append({pop()});
        break;
      case Opcode::appends:
        append(pop_to_mark());
        break;
      case Opcode::set_item:
        set_items(pop_several(2));
        break;
      case Opcode::set_items:
        set_items(pop_to_mark());
        break;
      case Opcode::tuple:
        push_value(PickleTuple{pop_to_mark()});
        break;
      case Opcode::tuple1:
      case Opcode::tuple2:
      case Opcode::tuple3:
        push_value(PickleTuple{pop_several(1U + code - static_cast<std::uint8_t>(Opcode::tuple1))});
        break;
      case Opcode::bin_put:
        put(number<std::uint8_t>());
        break;
      case Opcode::long_bin_put:
        put(number<std::uint32_t>());
        break;
      case Opcode::bin_get:
        get(number<std::uint8_t>());
        break;
      case Opcode::long_bin_get:
        get(number<std::uint32_t>());
        break;
      case Opcode::global:
        push_global();
        break;
      case Opcode::reduce:
        reduce();
        break;
      case Opcode::build:
        // Attributes of an OrderedDict, such as a state dictionary's _metadata: no tensors.
        pop();
        static_cast<void>(top<PickleDictionary>("a dictionary to give attributes to"));
        break;
      case Opcode::bin_persistent_id:
        push_value(PicklePersistent{pop()});
        break;
      case Opcode::protocol:
      default:
        fail(opcode_text(code) + ": not one of those that tensors are saved with");
    }
    return true;
  }

  std::span<const std::byte> pickle_;
  const std::string& source_;
  std::span<const std::string_view> allowed_globals_;
  PickleLimits limits_;
  std::size_t position_ = 0;
  std::size_t opcode_position_ = 0;
  std::size_t pushes_ = 0;
  PickleDocument document_;
  std::vector<PickleReference> stack_;
  std::vector<std::size_t> marks_;  ///< sizes of the stack
  std::unordered_map<std::uint32_t, PickleReference> memo_;
};

}  // namespace

PickleDocument parse_pickle(std::span<const std::byte> pickle, const std::string& source,
                            std::span<const std::string_view> allowed_globals,
                            const PickleLimits& limits) {
  return PickleReader(pickle, source, allowed_globals, limits).read();
}

std::string describe(const PickleValue& value) {
  struct Visitor {
    std::string operator()(const PickleNone& /*none*/) const { return "None"; }
    std::string operator()(bool value) const { return value ? "True" : "False"; }
    std::string operator()(std::int64_t value) const { return fmt::format("{}", value); }
    std::string operator()(double value) const { return fmt::format("{}", value); }
    std::string operator()(const std::string& text) const {
      return fmt::format("the string '{}'", printable(text));
    }
    std::string operator()(const PickleGlobal& global) const {
      return "the global " + printable(global.name);
    }
    std::string operator()(const PickleTuple& /*tuple*/) const { return "a tuple"; }
    std::string operator()(const PickleList& /*list*/) const { return "a list"; }
    std::string operator()(const PickleDictionary& /*dictionary*/) const { return "a dictionary"; }
    std::string operator()(const PickleCall& /*call*/) const { return "an object"; }
    std::string operator()(const PicklePersistent& /*persistent*/) const { return "a storage"; }
  };
  return std::visit(Visitor{}, value);
}

}  // namespace portolan
