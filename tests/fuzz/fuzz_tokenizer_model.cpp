// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <string_view>

#include "core/error.hpp"
#include "models/tokenizers/tokenizer_sentencepiece.hpp"
#include "models/tokenizers/tokenizer_tiktoken.hpp"
#include "models/tokenizers/unicode_text.hpp"

/// Any bytes give an error or a tokenizer that turns text into ids and ids into UTF-8.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace portolan;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const Tokenizer tokenizer = looks_like_tiktoken(bytes)
                                    ? parse_tokenizer_tiktoken(bytes, "fuzz")
                                    : parse_tokenizer_sentencepiece(bytes, "fuzz");
    const auto ids = tokenizer.encode("the <s>A\xC3\xA4  12\n\xE6\x97\xA5");
    if (find_invalid_utf8(tokenizer.decode(ids))) std::abort();
  } catch (const InputError&) {
  } catch (const UnsupportedError&) {
  }
  return 0;
}
