// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "core/backend.hpp"

namespace portolan {

/// A device whose memory the host cannot touch: any access but through copy_bytes ends the process.
/// It can do nothing else, so it shows that transports stage device tensors through the host.
[[nodiscard]] std::unique_ptr<Backend> make_fake_device();
inline constexpr Device kFakeDevice{DeviceKind::cuda, 0};

}  // namespace portolan
