// SPDX-License-Identifier: Apache-2.0
#include <mpi.h>

#include "core/unguarded.hpp"
#include "parallel/transport/mpi/allowed.hpp"
