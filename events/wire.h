// Protobuf's wire format, for those who want a few fields of a message and not all of it.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/bytes.h"

namespace leat::events {

enum WireType : uint32_t {
  kWireVarint = 0,
  kWireFixed64 = 1,
  kWireLengthDelimited = 2,
  kWireFixed32 = 5,
};

// One field: `number` or `bytes` is set, as its wire type says, and the other is empty.
struct WireField {
  uint32_t field = 0;
  uint32_t wire_type = 0;
  uint64_t number = 0;
  std::string_view bytes;
};

// The field at the front; false when the bytes are no message.
inline bool TakeField(core::ByteReader* reader, WireField* out) {
  uint64_t tag;
  if (!reader->TakeVarint(&tag) || tag >> 3 == 0 || tag >> 32 != 0) return false;
  out->number = 0;
  out->bytes = {};
  out->field = static_cast<uint32_t>(tag >> 3);
  out->wire_type = static_cast<uint32_t>(tag & 7);
  switch (out->wire_type) {
    case kWireVarint: return reader->TakeVarint(&out->number);
    case kWireFixed64: return reader->TakeBytes(8, &out->bytes);
    case kWireLengthDelimited: return reader->TakeString(&out->bytes);
    case kWireFixed32: return reader->TakeBytes(4, &out->bytes);
    default: return false;
  }
}

}  // namespace leat::events
