# SPDX-License-Identifier: Apache-2.0
"""Runs Portolan and its peers pass by pass and compares their times."""
