// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace portolan {

/// Plots by the gnuplot program.
class Gnuplot {
 public:
  /// Throws UnsupportedError, in one line that says what to install, when gnuplot is not on PATH.
  Gnuplot();

  /// The picture that a script draws, as an <svg> element for use inside HTML: without size, so
  /// that it fits its place, without XML prologue, and with all its ids prefixed by `name`, since
  /// one page holds several. `label` says to screen readers what it shows. The script sets no
  /// terminal. Throws Error with gnuplot's own message when it does not understand the script.
  [[nodiscard]] std::string svg(const std::string& script, const std::string& name,
                                const std::string& label, int width, int height) const;

 private:
  std::string program_;
};

/// gnuplot's SVG document as described above.
[[nodiscard]] std::string inline_svg(const std::string& document, const std::string& name,
                                     const std::string& label);

/// A gnuplot string literal.
[[nodiscard]] std::string gnuplot_quoted(const std::string& text);

}  // namespace portolan
