// The price of blob gas, where a receipt does not name it.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "core/amount.h"

namespace leat::ingest {

// EIP-4844's get_base_fee_per_blob_gas: fake_exponential(1 wei, excess_blob_gas, fraction). The
// fraction is Cancun's, and on eip155:1 Prague's from its time on (EIP-7691). None where the rule
// is not known (eip155:1 after the first blob-parameter-only fork, EIP-7892) or the price is beyond
// 2^256.
std::optional<core::Amount> BlobGasPrice(std::string_view chain, uint64_t timestamp_s,
                                         uint64_t excess_blob_gas);

}  // namespace leat::ingest
