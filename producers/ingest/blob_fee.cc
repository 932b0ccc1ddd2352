#include "producers/ingest/blob_fee.h"

namespace leat::ingest {
namespace {

constexpr std::string_view kMainnet = "eip155:1";
constexpr uint64_t kCancunFraction = 3'338'477;
constexpr uint64_t kPragueFraction = 5'007'716;
constexpr uint64_t kPragueTimestamp = 1'746'612'311;         // mainnet, 2025-05-07
constexpr uint64_t kFirstBlobForkTimestamp = 1'765'290'071;  // mainnet, 2025-12-09
constexpr uint64_t kTermsMax = 4096;  // the terms of a price below 2^256 vanish long before

// Taylor's series of e^(numerator/denominator) in whole numbers, as EIP-4844 writes it, with
// factor 1.
std::optional<core::Amount> FakeExponential(uint64_t numerator, uint64_t denominator) {
  core::Amount output;
  core::Amount term = denominator;
  for (uint64_t i = 1; !term.IsZero(); ++i) {
    if (i > kTermsMax || !output.CheckedAdd(term) || !term.CheckedMultiply(numerator)) {
      return std::nullopt;
    }
    term = term.DividedBy(core::Amount(denominator) * core::Amount(i));
  }
  return output.DividedBy(denominator);
}

}  // namespace

std::optional<core::Amount> BlobGasPrice(std::string_view chain, uint64_t timestamp_s,
                                         uint64_t excess_blob_gas) {
  if (chain != kMainnet || timestamp_s < kPragueTimestamp) {
    return FakeExponential(excess_blob_gas, kCancunFraction);
  }
  if (timestamp_s < kFirstBlobForkTimestamp)
    return FakeExponential(excess_blob_gas, kPragueFraction);
  return std::nullopt;
}

}  // namespace leat::ingest
