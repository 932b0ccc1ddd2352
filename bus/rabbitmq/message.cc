#include "bus/rabbitmq/message.h"

#include <amqp.h>

#include <algorithm>
#include <optional>

#include "core/clock.h"

namespace leat::bus::rabbitmq {
namespace {

constexpr std::string_view kHeaderPrefix = "cloudEvents_";
// What others write: the older form of the binding to AMQP 1.0, and that of SDKs for RabbitMQ.
constexpr std::string_view kOtherPrefixes[] = {"cloudEvents:", "ce-"};
constexpr size_t kShortTextBytesMax = 255;  // of a property

amqp_bytes_t Bytes(std::string_view text) { return {text.size(), const_cast<char*>(text.data())}; }
std::string_view View(const amqp_bytes_t& bytes) {
  return {static_cast<const char*>(bytes.bytes), bytes.len};
}

// Cuts the prefix off; false when it has none.
bool CutPrefix(std::string_view* name) {
  const auto cut = [&](std::string_view prefix) {
    if (!name->starts_with(prefix)) return false;
    name->remove_prefix(prefix.size());
    return true;
  };
  return cut(kHeaderPrefix) ||
         std::any_of(std::begin(kOtherPrefixes), std::end(kOtherPrefixes), cut);
}

// A value in a type of AMQP's own as CloudEvents writes it; nothing for what is no attribute.
std::optional<std::string> TextOf(std::string_view name, const amqp_field_value_t& value) {
  std::optional<int64_t> number;
  switch (value.kind) {
    case AMQP_FIELD_KIND_BOOLEAN:
      return value.value.boolean != 0 ? "true" : "false";
    case AMQP_FIELD_KIND_TIMESTAMP:
      if (value.value.u64 > static_cast<uint64_t>(core::kTimeMaxUs / core::kMicrosPerSecond))
        return {};
      return core::FormatTime(static_cast<int64_t>(value.value.u64) * core::kMicrosPerSecond);
    case AMQP_FIELD_KIND_I8:
      number = value.value.i8;
      break;
    case AMQP_FIELD_KIND_U8:
      number = value.value.u8;
      break;
    case AMQP_FIELD_KIND_I16:
      number = value.value.i16;
      break;
    case AMQP_FIELD_KIND_U16:
      number = value.value.u16;
      break;
    case AMQP_FIELD_KIND_I32:
      number = value.value.i32;
      break;
    case AMQP_FIELD_KIND_U32:
      number = value.value.u32;
      break;
    case AMQP_FIELD_KIND_I64:
      number = value.value.i64;
      break;
    default:
      return {};
  }
  // A time as AMQP 1.0 has it: in milliseconds.
  constexpr int64_t kMicrosPerMilli = 1000;
  if (name != "time") return std::to_string(*number);
  if (*number > core::kTimeMaxUs / kMicrosPerMilli || *number < core::kTimeMinUs / kMicrosPerMilli)
    return {};
  return core::FormatTime(*number * kMicrosPerMilli);
}

}  // namespace

EventHeaders::EventHeaders() = default;
EventHeaders::~EventHeaders() = default;

void EventHeaders::Set(const events::EventView& event, amqp_basic_properties_t* properties) {
  entries_.clear();
  ForEachAttribute(event, &texts_, [&](std::string_view name, std::string_view text) {
    if (entries_.size() == names_.size()) names_.emplace_back();
    std::string& header = names_[entries_.size()];
    header.assign(kHeaderPrefix).append(name);
    amqp_table_entry_t& entry = entries_.emplace_back();
    entry = {};
    entry.key = Bytes(header);
    entry.value.kind = AMQP_FIELD_KIND_UTF8;
    entry.value.value.bytes = Bytes(text);
  });
  properties->_flags |=
      AMQP_BASIC_HEADERS_FLAG | AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_TYPE_FLAG;
  properties->headers = {static_cast<int>(entries_.size()), entries_.data()};
  properties->content_type =
      Bytes(event.datacontenttype.empty() ? events::kProtobufContentType : event.datacontenttype);
  properties->type = Bytes(event.type.substr(0, kShortTextBytesMax));
}

Status CheckMessage(const events::EventView& event) {
  LEAT_TRY(events::CheckLimits(event));
  if (event.datacontenttype.size() > kShortTextBytesMax) {
    return Invalid(
        "datacontenttype: is longer than " + std::to_string(kShortTextBytesMax) + " bytes",
        "AMQP takes no more");
  }
  AttributeTexts texts;
  size_t bytes = 0;
  ForEachAttribute(event, &texts, [&](std::string_view name, std::string_view text) {
    bytes += kHeaderPrefix.size() + name.size() + text.size() + 8;
  });
  if (bytes <= kAttributesBytesMax) return {};
  return Invalid("attributes: take " + std::to_string(bytes) + " bytes",
                 "at most " + std::to_string(kAttributesBytesMax) + " on RabbitMQ");
}

Status ReadEvent(const amqp_basic_properties_t& properties, std::string_view body,
                 events::EventView* event, std::vector<events::Event>* structured) {
  event->data = body;
  if ((properties._flags & AMQP_BASIC_CONTENT_TYPE_FLAG) != 0)
    event->datacontenttype = View(properties.content_type);
  AttributesSeen seen;
  std::deque<std::string> texts;  // of what was none
  const amqp_table_t& headers = properties.headers;
  for (int i = 0; i < headers.num_entries; ++i) {
    const auto& entry = headers.entries[i];
    std::string_view name = View(entry.key);
    if (!CutPrefix(&name)) continue;
    std::string_view text;
    if (entry.value.kind == AMQP_FIELD_KIND_UTF8 || entry.value.kind == AMQP_FIELD_KIND_BYTES) {
      text = View(entry.value.value.bytes);
    } else if (auto made = TextOf(name, entry.value); made) {
      text = texts.emplace_back(std::move(*made));
    } else {
      return Invalid(std::string(name) + ": is no text", "write the header as a long string");
    }
    LEAT_TRY(TakeAttribute(name, text, &seen, event));
  }
  LEAT_TRY(FinishEvent(seen, event, structured));
  if (!texts.empty() && structured->empty()) {
    structured->emplace_back(*event);
    *event = structured->front().view();
  }
  return {};
}

}  // namespace leat::bus::rabbitmq
