#include "core/bytes.h"

#include "core/hash.h"

namespace leat::core {
namespace {

constexpr char kDigits[] = "0123456789abcdef";

int DigitValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Decodes hex digits without a prefix; false on a bad digit or an odd number of them.
bool DecodeDigits(std::string_view digits, uint8_t* out) {
  if (digits.size() % 2 != 0) return false;
  for (size_t i = 0; i < digits.size(); i += 2) {
    const int high = DigitValue(digits[i]);
    const int low = DigitValue(digits[i + 1]);
    if (high < 0 || low < 0) return false;
    *out++ = static_cast<uint8_t>(high << 4 | low);
  }
  return true;
}

bool HasHexPrefix(std::string_view text) {
  return text.size() >= 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
}

template <size_t N>
bool ParseFixed(std::string_view text, FixedBytes<N>* out) {
  return text.size() == 2 + 2 * N && HasHexPrefix(text) &&
         DecodeDigits(text.substr(2), out->data.data());
}

// EIP-55: a letter is upper case when the same nibble of keccak256(lower-case digits) is 8 or more.
bool ChecksumHolds(std::string_view digits) {
  std::string lower(digits);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'F') c = static_cast<char>(c - 'A' + 'a');
  }
  const Hash hash = Keccak256(lower);
  for (size_t i = 0; i < digits.size(); ++i) {
    const int nibble = hash.data[i / 2] >> (i % 2 == 0 ? 4 : 0) & 0xf;
    const char c = digits[i];
    if (c >= 'a' && c <= 'f' && nibble >= 8) return false;
    if (c >= 'A' && c <= 'F' && nibble < 8) return false;
  }
  return true;
}

std::string Shown(std::string_view text) {
  constexpr size_t kShownMax = 80;
  if (text.size() <= kShownMax) return "\"" + std::string(text) + "\"";
  return "\"" + std::string(text.substr(0, kShownMax)) + "…\"";
}

}  // namespace

void AppendHex(std::string_view bytes, std::string* out) {
  const size_t start = out->size();
  out->resize(start + 2 * bytes.size());
  char* to = out->data() + start;
  for (const char c : bytes) {
    const auto byte = static_cast<uint8_t>(c);
    *to++ = kDigits[byte >> 4];
    *to++ = kDigits[byte & 0xf];
  }
}

std::string ToHex(std::string_view bytes) {
  std::string out = "0x";
  AppendHex(bytes, &out);
  return out;
}

Result<std::string> FromHex(std::string_view text) {
  std::string out;
  if (HasHexPrefix(text)) {
    out.resize((text.size() - 2) / 2);
    if (DecodeDigits(text.substr(2), reinterpret_cast<uint8_t*>(out.data()))) return out;
  }
  return Invalid(Shown(text) + " is not hex", "write 0x and an even number of hex digits");
}

Result<uint64_t> ParseUint64(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    return Invalid(Shown(text) + " is not a number from 0 to 2^64-1", "write decimal digits only");
  }
  return value;
}

Result<Address> ParseAddress(std::string_view text) {
  Address address;
  if (!ParseFixed(text, &address)) {
    return Invalid(Shown(text) + " is not an address", "write 0x and 40 hex digits");
  }
  const std::string_view digits = text.substr(2);
  bool lower = false;
  bool upper = false;
  for (const char c : digits) {
    lower |= c >= 'a' && c <= 'f';
    upper |= c >= 'A' && c <= 'F';
  }
  if (lower && upper && !ChecksumHolds(digits)) {
    return Invalid(Shown(text) + " has a wrong EIP-55 checksum",
                   "check the address, or write it in lower case");
  }
  return address;
}

Result<Hash> ParseHash(std::string_view text) {
  Hash hash;
  if (!ParseFixed(text, &hash)) {
    return Invalid(Shown(text) + " is not a 32-byte hash", "write 0x and 64 hex digits");
  }
  return hash;
}

}  // namespace leat::core
