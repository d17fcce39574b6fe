// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace portolan {

/// The two published forms of x * Phi(x) (Hendrycks and Gimpel 2016, arXiv:1606.08415): exact, and
/// its approximation by tanh(sqrt(2 / pi) * (x + 0.044715 x^3)). Configurations name them, backends
/// compute them.
enum class GeluKind { erf, tanh };

}  // namespace portolan
