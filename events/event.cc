#include "events/event.h"

#include "core/bytes.h"
#include "core/clock.h"
#include "events/wire.h"

namespace leat::events {
namespace {

// Protobuf's wire format, as far as the envelope needs it. Field numbers are those of envelope.proto.
enum Field : uint32_t {
  kType = 1, kTimeUs = 2, kCause = 3, kId = 4, kSource = 5, kSubject = 6, kStreamVersion = 7,
  kPartitionKey = 8, kDataContentType = 9, kDataSchema = 10, kCorrelationId = 11,
  kCausationId = 12, kTraceParent = 13, kExtensions = 14, kData = 15, kPosition = 16,
};
enum CauseField : uint32_t { kTopic = 1, kPartition = 2, kOffset = 3, kN = 4, kM = 5 };
constexpr size_t kExtensionNameBytesMax = 64;

void PutBytes(uint32_t field, std::string_view value, std::string* out) {
  if (value.empty()) return;
  core::AppendVarint(field << 3 | kWireLengthDelimited, out);
  core::AppendString(value, out);
}

void PutNumber(uint32_t field, uint64_t value, std::string* out) {
  if (value == 0) return;
  core::AppendVarint(field << 3 | kWireVarint, out);
  core::AppendVarint(value, out);
}

uint64_t ZigZag(int64_t value) {
  return static_cast<uint64_t>(value) << 1 ^ static_cast<uint64_t>(value >> 63);
}
int64_t UnZigZag(uint64_t value) {
  return static_cast<int64_t>(value >> 1) ^ -static_cast<int64_t>(value & 1);
}

bool DecodeCause(std::string_view bytes, Cause* cause) {
  core::ByteReader reader(bytes);
  WireField field;
  while (!reader.Empty()) {
    if (!TakeField(&reader, &field)) return false;
    // As in Protobuf, a known number with another wire type is an unknown field.
    if (field.wire_type != (field.field == kTopic ? kWireLengthDelimited : kWireVarint)) continue;
    switch (field.field) {
      case kTopic: cause->topic = field.bytes; break;
      case kPartition: cause->partition = static_cast<uint32_t>(field.number); break;
      case kOffset: cause->offset = field.number; break;
      case kN: cause->n = static_cast<uint32_t>(field.number); break;
      case kM: cause->m = static_cast<uint32_t>(field.number); break;
      default: break;
    }
  }
  return true;
}

bool DecodeExtension(std::string_view bytes, EventView* event) {
  core::ByteReader reader(bytes);
  WireField field;
  std::pair<std::string_view, std::string_view> entry;
  while (!reader.Empty()) {
    if (!TakeField(&reader, &field)) return false;
    if (field.wire_type != kWireLengthDelimited) continue;
    if (field.field == 1) entry.first = field.bytes;
    if (field.field == 2) entry.second = field.bytes;
  }
  if (event->extensions.size() >= kExtensionsMax) return false;
  event->extensions.push_back(entry);
  return true;
}

// Every text of an event, in one order, for measuring and copying.
template <typename View, typename F>
void ForEachText(View& event, F&& visit) {
  visit(event.type);
  visit(event.id);
  visit(event.source);
  visit(event.subject);
  visit(event.partitionkey);
  visit(event.datacontenttype);
  visit(event.dataschema);
  visit(event.correlationid);
  visit(event.causationid);
  visit(event.traceparent);
  visit(event.data);
  if (event.cause) visit(event.cause->topic);
  for (auto& [name, value] : event.extensions) {
    visit(name);
    visit(value);
  }
}

}  // namespace

Event::Event(const EventView& view) : view_(view) {
  size_t size = 0;
  ForEachText(view, [&](std::string_view text) { size += text.size(); });
  text_.reserve(size);
  ForEachText(view_, [&](std::string_view& text) {
    const size_t start = text_.size();
    text_.insert(text_.end(), text.begin(), text.end());
    text = {text_.data() + start, text.size()};
  });
}

Status CheckLimits(const EventView& event) {
  const std::pair<std::string_view, std::string_view> attributes[] = {
      {"type", event.type},
      {"id", event.id},
      {"source", event.source},
      {"subject", event.subject},
      {"partitionkey", event.partitionkey},
      {"datacontenttype", event.datacontenttype},
      {"dataschema", event.dataschema},
      {"correlationid", event.correlationid},
      {"causationid", event.causationid},
      {"traceparent", event.traceparent},
      {"cause", event.cause ? event.cause->topic : std::string_view()},
  };
  const auto too_long = [](std::string_view name, std::string_view value) -> Status {
    if (value.size() <= kAttributeBytesMax) return {};
    return Invalid(std::string(name) + ": is " + std::to_string(value.size()) + " bytes long",
                   "at most " + std::to_string(kAttributeBytesMax));
  };
  for (const auto& [name, value] : attributes) LEAT_TRY(too_long(name, value));
  if (event.extensions.size() > kExtensionsMax) {
    return Invalid("extensions: there are " + std::to_string(event.extensions.size()),
                   "at most " + std::to_string(kExtensionsMax));
  }
  for (const auto& [name, value] : event.extensions) {
    if (name.empty() || name.size() > kExtensionNameBytesMax ||
        name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789") !=
            std::string_view::npos) {
      return Invalid(std::string(name.substr(0, kExtensionNameBytesMax)) +
                         ": is not a CloudEvents attribute",
                     "extension names are 1 to 64 lower-case letters and digits");
    }
    LEAT_TRY(too_long(name, value));
  }
  if (event.time_us < core::kTimeMinUs || event.time_us > core::kTimeMaxUs) {
    return Invalid("time: is not in the years 0 to 9999", "give microseconds since 1970");
  }
  if (event.data.size() > kDataBytesMax) {
    return Invalid("data: is " + std::to_string(event.data.size()) + " bytes long",
                   "at most " + std::to_string(kDataBytesMax));
  }
  return {};
}

std::string EventId(const EventView& event) {
  if (!event.id.empty() || !event.cause) return std::string(event.id);
  const Cause& cause = *event.cause;
  return std::string(cause.topic) + "/" + std::to_string(cause.partition) + "@" +
         std::to_string(cause.offset) + "#" + std::to_string(cause.n);
}

void EncodeEvent(const EventView& event, std::string* out) {
  PutBytes(kType, event.type, out);
  PutNumber(kTimeUs, ZigZag(event.time_us), out);
  if (event.cause) {
    std::string cause;
    PutBytes(kTopic, event.cause->topic, &cause);
    PutNumber(kPartition, event.cause->partition, &cause);
    PutNumber(kOffset, event.cause->offset, &cause);
    PutNumber(kN, event.cause->n, &cause);
    PutNumber(kM, event.cause->m, &cause);
    core::AppendVarint(kCause << 3 | kWireLengthDelimited, out);
    core::AppendString(cause, out);
  }
  PutBytes(kId, event.id, out);
  PutBytes(kSource, event.source, out);
  PutBytes(kSubject, event.subject, out);
  if (event.streamversion) {
    core::AppendVarint(kStreamVersion << 3 | kWireVarint, out);
    core::AppendVarint(*event.streamversion, out);
  }
  if (event.position) {
    core::AppendVarint(kPosition << 3 | kWireVarint, out);
    core::AppendVarint(*event.position, out);
  }
  PutBytes(kPartitionKey, event.partitionkey, out);
  PutBytes(kDataContentType, event.datacontenttype, out);
  PutBytes(kDataSchema, event.dataschema, out);
  PutBytes(kCorrelationId, event.correlationid, out);
  PutBytes(kCausationId, event.causationid, out);
  PutBytes(kTraceParent, event.traceparent, out);
  for (const auto& [name, value] : event.extensions) {
    std::string entry;
    PutBytes(1, name, &entry);
    PutBytes(2, value, &entry);
    core::AppendVarint(kExtensions << 3 | kWireLengthDelimited, out);
    core::AppendString(entry, out);
  }
  PutBytes(kData, event.data, out);
}

Result<EventView> DecodeEvent(std::string_view bytes) {
  EventView event;
  core::ByteReader reader(bytes);
  WireField field;
  while (!reader.Empty()) {
    bool good = TakeField(&reader, &field);
    const bool is_number = field.field == kTimeUs || field.field == kStreamVersion ||
                           field.field == kPosition;
    if (good && field.wire_type == (is_number ? kWireVarint : kWireLengthDelimited)) {
      switch (field.field) {
        case kType: event.type = field.bytes; break;
        case kTimeUs: event.time_us = UnZigZag(field.number); break;
        case kCause: 
          if (!event.cause) event.cause.emplace();
          good = DecodeCause(field.bytes, &*event.cause);
          break;
        case kId: event.id = field.bytes; break;
        case kSource: event.source = field.bytes; break;
        case kSubject: event.subject = field.bytes; break;
        case kStreamVersion: event.streamversion = field.number; break;
        case kPosition: event.position = field.number; break;
        case kPartitionKey: event.partitionkey = field.bytes; break;
        case kDataContentType: event.datacontenttype = field.bytes; break;
        case kDataSchema: event.dataschema = field.bytes; break;
        case kCorrelationId: event.correlationid = field.bytes; break;
        case kCausationId: event.causationid = field.bytes; break;
        case kTraceParent: event.traceparent = field.bytes; break;
        case kExtensions: good = DecodeExtension(field.bytes, &event); break;
        case kData: event.data = field.bytes; break;
        default: break;
      }
    }
    if (!good) {
      return Fail(ErrorClass::kCorrupt, "these bytes are no binary event envelope",
                  "see events/proto/envelope/v1/envelope.proto");
    }
  }
  return event;
}

}  // namespace leat::events
