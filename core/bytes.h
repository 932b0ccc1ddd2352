// Bytes as text and as numbers: hex, big-endian keys, varints, addresses and hashes.
#pragma once

#include <array>
#include <charconv>
#include <compare>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "core/result.h"

namespace leat::core {

// Lower-case hex of `bytes`, with "0x" before it.
std::string ToHex(std::string_view bytes);
// Lower-case hex without a prefix, appended to `out`.
void AppendHex(std::string_view bytes, std::string* out);
// Bytes of "0x…" (any case, even number of digits). Errors: kInvalid.
Result<std::string> FromHex(std::string_view text);

// Big-endian, so that keys sort as numbers do.
inline void AppendBigEndian64(uint64_t value, std::string* out) {
  value = __builtin_bswap64(value);
  out->append(reinterpret_cast<const char*>(&value), sizeof value);
}
inline void AppendBigEndian32(uint32_t value, std::string* out) {
  value = __builtin_bswap32(value);
  out->append(reinterpret_cast<const char*>(&value), sizeof value);
}
inline uint64_t LoadBigEndian64(const char* data) {
  uint64_t value;
  std::memcpy(&value, data, sizeof value);
  return __builtin_bswap64(value);
}
inline uint32_t LoadBigEndian32(const char* data) {
  uint32_t value;
  std::memcpy(&value, data, sizeof value);
  return __builtin_bswap32(value);
}

// LEB128 as in Protobuf: at most ten bytes.
inline void AppendVarint(uint64_t value, std::string* out) {
  char buffer[10];
  size_t size = 0;
  while (value >= 0x80) {
    buffer[size++] = static_cast<char>(value | 0x80);
    value >>= 7;
  }
  buffer[size++] = static_cast<char>(value);
  out->append(buffer, size);
}

// Takes values from the front of a byte string; every Take is false when the bytes do not hold it.
class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : bytes_(bytes) {}

  bool TakeVarint(uint64_t* value) {
    uint64_t result = 0;
    for (unsigned shift = 0, i = 0; i < 10 && i < bytes_.size(); ++i, shift += 7) {
      const auto byte = static_cast<uint8_t>(bytes_[i]);
      result |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) {
        bytes_.remove_prefix(i + 1);
        *value = result;
        return true;
      }
    }
    return false;
  }
  bool TakeBytes(size_t size, std::string_view* out) {
    if (bytes_.size() < size) return false;
    *out = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return true;
  }
  // A varint length and that many bytes.
  bool TakeString(std::string_view* out) {
    uint64_t size;
    return TakeVarint(&size) && size <= bytes_.size() && TakeBytes(size, out);
  }
  bool TakeBigEndian64(uint64_t* value) {
    std::string_view raw;
    if (!TakeBytes(8, &raw)) return false;
    *value = LoadBigEndian64(raw.data());
    return true;
  }
  bool TakeBigEndian32(uint32_t* value) {
    std::string_view raw;
    if (!TakeBytes(4, &raw)) return false;
    *value = LoadBigEndian32(raw.data());
    return true;
  }
  bool TakeByte(uint8_t* value) {
    std::string_view raw;
    if (!TakeBytes(1, &raw)) return false;
    *value = static_cast<uint8_t>(raw[0]);
    return true;
  }
  bool Empty() const { return bytes_.empty(); }
  std::string_view Rest() const { return bytes_; }

 private:
  std::string_view bytes_;
};

inline void AppendString(std::string_view value, std::string* out) {
  AppendVarint(value.size(), out);
  out->append(value);
}

// A whole decimal number without sign, in [0, 2^64). Errors: kInvalid.
Result<uint64_t> ParseUint64(std::string_view text);

// A fixed number of bytes with value semantics.
template <size_t N>
struct FixedBytes {
  std::array<uint8_t, N> data{};

  static constexpr size_t kSize = N;
  std::string_view View() const { return {reinterpret_cast<const char*>(data.data()), N}; }
  std::string Hex() const { return ToHex(View()); }
  bool IsZero() const { return *this == FixedBytes{}; }
  // `bytes` must be N long.
  static FixedBytes From(std::string_view bytes) {
    LEAT_ASSERT(bytes.size() == N);
    FixedBytes out;
    std::memcpy(out.data.data(), bytes.data(), N);
    return out;
  }
  auto operator<=>(const FixedBytes&) const = default;
};

using Address = FixedBytes<20>;
using Hash = FixedBytes<32>;

// "0x" and 40 hex digits. Mixed case must satisfy the EIP-55 checksum. Errors: kInvalid.
Result<Address> ParseAddress(std::string_view text);
// "0x" and 64 hex digits, any case. Errors: kInvalid.
Result<Hash> ParseHash(std::string_view text);

}  // namespace leat::core

namespace leat {
using core::Address;
using core::Hash;
}  // namespace leat

template <size_t N>
struct std::hash<leat::core::FixedBytes<N>> {
  size_t operator()(const leat::core::FixedBytes<N>& value) const noexcept {
    // Addresses and hashes are hashes already; their last bytes are as good as any.
    size_t out;
    std::memcpy(&out, value.data.data() + N - sizeof out, sizeof out);
    return out;
  }
};
