// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmbus/transcript.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/guid_text.h"
#include "base/status_macros.h"
#include "vmbus/text_fields.h"

namespace hvsdk::vmbus {

namespace {

constexpr uint32_t kMax32 = 0xFFFFFFFF;

struct ActName {
  HostAct::Kind kind;
  const char* name;
};
constexpr ActName kActNames[] = {
    {HostAct::Kind::kAddOffer, "add-offer"},
    {HostAct::Kind::kRemoveOffer, "remove-offer"},
    {HostAct::Kind::kCompleteOpen, "complete-open"},
    {HostAct::Kind::kCompleteClose, "complete-close"},
    {HostAct::Kind::kCompleteRetarget, "complete-retarget"},
    {HostAct::Kind::kAcquireGpadl, "acquire-gpadl"},
    {HostAct::Kind::kReleaseGpadl, "release-gpadl"},
    {HostAct::Kind::kRefuseTlConnect, "refuse-tl-connect"},
    {HostAct::Kind::kReset, "reset"},
};

void AppendIfSet(std::string& text, const char* field, uint32_t value) {
  if (value != 0) absl::StrAppend(&text, " ", field, "=", value);
}

// Keeps the host's side honest: what a transcript's author gets wrong must not reach a check in the core.
class Replayer : public Transcript {
 public:
  Replayer(GuestMemory& memory, const ServerOptions& options) : core_(memory, options) { core_.SetListener(this); }

  absl::Status Line(absl::string_view line);
  // Nothing waits for the guest in a replay.
  void Drain() {
    while (core_.FirstMessage() != nullptr) core_.PopMessage();
    Notice notice;
    while (core_.TakeNotice(notice)) {
    }
  }

  void OnNotice(const Notice& notice) override {
    Transcript::OnNotice(notice);
    if (notice.kind <= Notice::Kind::kRetarget) ++hosts_[notice.offer].waiting[static_cast<int>(notice.kind)];
  }

 private:
  struct HostSide {
    int waiting[3] = {};  // by Notice::Kind: kOpen, kClose, kRetarget
    std::map<uint32_t, int> leases;
  };

  absl::Status Act(internal::TextFields fields);
  absl::Status Answered(OfferId id, Notice::Kind kind);

  ServerCore core_;
  std::map<OfferId, HostSide> hosts_;
};

absl::Status Replayer::Line(absl::string_view line) {
  line = absl::StripAsciiWhitespace(line);
  if (line.empty() || line[0] == '#' || line[0] == '<' || line[0] == '@') return absl::OkStatus();
  const absl::string_view rest = absl::StripAsciiWhitespace(line.substr(1));
  if (line[0] == '>') {
    ASSIGN_OR_RETURN(const std::vector<uint8_t> message, ParseMessage(rest));
    (void)core_.OnMessage(message);
  } else if (line[0] == '!') {
    ASSIGN_OR_RETURN(internal::TextFields fields, internal::TextFields::Parse(rest));
    RETURN_IF_ERROR(Act(std::move(fields)));
  } else {
    return absl::InvalidArgumentError("a line starts with >, <, !, @ or #");
  }
  Drain();
  return absl::OkStatus();
}

absl::Status Replayer::Answered(OfferId id, Notice::Kind kind) {
  int& waiting = hosts_[id].waiting[static_cast<int>(kind)];
  if (waiting == 0) return absl::InvalidArgumentError("nothing is there to be completed");
  --waiting;
  return absl::OkStatus();
}

absl::Status Replayer::Act(internal::TextFields fields) {
  const auto* const known = std::find_if(std::begin(kActNames), std::end(kActNames),
                                         [&](const ActName& n) { return fields.name() == n.name; });
  if (known == std::end(kActNames)) {
    return absl::InvalidArgumentError(absl::StrCat("no act \"", fields.name(), "\""));
  }
  ASSIGN_OR_RETURN(const uint64_t number, fields.Number("id", kMax32));
  const OfferId id{static_cast<uint32_t>(number)};
  if (known->kind != HostAct::Kind::kAddOffer && known->kind != HostAct::Kind::kRefuseTlConnect &&
      known->kind != HostAct::Kind::kReset && hosts_.count(id) == 0) {
    return absl::InvalidArgumentError(absl::StrCat("no offer has id ", number));
  }
  switch (known->kind) {
    case HostAct::Kind::kAddOffer: {
      Offer offer;
      ASSIGN_OR_RETURN(offer.class_id, fields.Guid("class"));
      ASSIGN_OR_RETURN(offer.instance_id, fields.Guid("instance"));
      ASSIGN_OR_RETURN(const uint64_t flags, fields.Number("flags", 0xFFFF));
      ASSIGN_OR_RETURN(const uint64_t subchannel, fields.Number("subchannel", 0xFFFF));
      ASSIGN_OR_RETURN(const uint64_t mmio, fields.Number("mmio", 0xFFFF));
      ASSIGN_OR_RETURN(const uint64_t mmio_optional, fields.Number("mmio_optional", 0xFFFF));
      ASSIGN_OR_RETURN(const std::vector<uint8_t> user, fields.Bytes("user"));
      RETURN_IF_ERROR(fields.CheckAllTaken());
      if (user.size() > offer.user_defined.size()) return absl::InvalidArgumentError("too many bytes in user");
      offer.flags = static_cast<uint16_t>(flags);
      offer.subchannel_index = static_cast<uint16_t>(subchannel);
      offer.mmio_megabytes = static_cast<uint16_t>(mmio);
      offer.mmio_megabytes_optional = static_cast<uint16_t>(mmio_optional);
      std::copy(user.begin(), user.end(), offer.user_defined.begin());
      ASSIGN_OR_RETURN(const OfferId got, core_.AddOffer(offer));
      hosts_[got];
      return absl::OkStatus();
    }
    case HostAct::Kind::kRemoveOffer:
      RETURN_IF_ERROR(fields.CheckAllTaken());
      hosts_.erase(id);
      core_.RemoveOffer(id);
      return absl::OkStatus();
    case HostAct::Kind::kCompleteOpen: {
      ASSIGN_OR_RETURN(const uint64_t accepted, fields.Number("accepted", 1));
      RETURN_IF_ERROR(fields.CheckAllTaken());
      RETURN_IF_ERROR(Answered(id, Notice::Kind::kOpen));
      core_.CompleteOpen(id, accepted != 0);
      return absl::OkStatus();
    }
    case HostAct::Kind::kCompleteClose:
      RETURN_IF_ERROR(fields.CheckAllTaken());
      RETURN_IF_ERROR(Answered(id, Notice::Kind::kClose));
      core_.CompleteClose(id);
      return absl::OkStatus();
    case HostAct::Kind::kCompleteRetarget:
      RETURN_IF_ERROR(fields.CheckAllTaken());
      RETURN_IF_ERROR(Answered(id, Notice::Kind::kRetarget));
      core_.CompleteRetarget(id);
      return absl::OkStatus();
    case HostAct::Kind::kAcquireGpadl:
    case HostAct::Kind::kReleaseGpadl: {
      ASSIGN_OR_RETURN(const uint64_t gpadl, fields.Number("gpadl", kMax32));
      RETURN_IF_ERROR(fields.CheckAllTaken());
      const auto gpadl_id = static_cast<uint32_t>(gpadl);
      int& leases = hosts_[id].leases[gpadl_id];
      if (known->kind == HostAct::Kind::kAcquireGpadl) {
        leases += core_.AcquireGpadl(id, gpadl_id) != nullptr;
      } else if (leases == 0) {
        return absl::InvalidArgumentError("there is no lease to be released");
      } else {
        --leases;
        core_.ReleaseGpadl(id, gpadl_id);
      }
      return absl::OkStatus();
    }
    case HostAct::Kind::kRefuseTlConnect: {
      ASSIGN_OR_RETURN(const hvdef::Guid endpoint, fields.Guid("endpoint"));
      ASSIGN_OR_RETURN(const hvdef::Guid service, fields.Guid("service"));
      RETURN_IF_ERROR(fields.CheckAllTaken());
      core_.RefuseTlConnect(endpoint, service);
      return absl::OkStatus();
    }
    case HostAct::Kind::kReset:
      RETURN_IF_ERROR(fields.CheckAllTaken());
      core_.Reset();
      return absl::OkStatus();
  }
  return absl::OkStatus();
}

}  // namespace

void Transcript::OnToRoot(absl::Span<const uint8_t> message) {
  absl::StrAppend(&text_, "> ", FormatMessage(message), "\n");
}

void Transcript::OnToChild(absl::Span<const uint8_t> message) {
  absl::StrAppend(&text_, "< ", FormatMessage(message), "\n");
}

void Transcript::OnHostAct(const HostAct& act) {
  for (const ActName& known : kActNames) {
    if (known.kind == act.kind) absl::StrAppend(&text_, "! ", known.name);
  }
  AppendIfSet(text_, "id", static_cast<uint32_t>(act.id));
  switch (act.kind) {
    case HostAct::Kind::kAddOffer: {
      const Offer& offer = *act.offer;
      absl::StrAppend(&text_, " class=", GuidText(offer.class_id), " instance=", GuidText(offer.instance_id));
      AppendIfSet(text_, "flags", offer.flags);
      AppendIfSet(text_, "subchannel", offer.subchannel_index);
      AppendIfSet(text_, "mmio", offer.mmio_megabytes);
      AppendIfSet(text_, "mmio_optional", offer.mmio_megabytes_optional);
      if (std::any_of(offer.user_defined.begin(), offer.user_defined.end(), [](uint8_t b) { return b != 0; })) {
        absl::StrAppend(&text_, " user=", internal::FormatHexTrimmed(offer.user_defined));
      }
      break;
    }
    case HostAct::Kind::kCompleteOpen:
      absl::StrAppend(&text_, " accepted=", act.accepted ? 1 : 0);
      break;
    case HostAct::Kind::kAcquireGpadl:
    case HostAct::Kind::kReleaseGpadl:
      absl::StrAppendFormat(&text_, " gpadl=0x%x", act.gpadl_id);
      break;
    case HostAct::Kind::kRefuseTlConnect:
      absl::StrAppend(&text_, " endpoint=", GuidText(act.guids[0]), " service=", GuidText(act.guids[1]));
      break;
    default:
      break;
  }
  text_ += '\n';
}

void Transcript::OnNotice(const Notice& notice) {
  const auto id = static_cast<uint32_t>(notice.offer);
  switch (notice.kind) {
    case Notice::Kind::kOpen:
      absl::StrAppendFormat(&text_, "@ open id=%d channel=%d gpadl=0x%x downstream=%d vp=%d\n", id,
                            notice.open.channel_id, notice.open.ring_gpadl_id, notice.open.downstream_page_offset,
                            notice.open.target_vp);
      break;
    case Notice::Kind::kClose:
      absl::StrAppendFormat(&text_, "@ close id=%d\n", id);
      break;
    case Notice::Kind::kRetarget:
      absl::StrAppendFormat(&text_, "@ retarget id=%d vp=%d\n", id, notice.target_vp);
      break;
    case Notice::Kind::kGpadlTeardown:
      absl::StrAppendFormat(&text_, "@ gpadl-teardown id=%d gpadl=0x%x\n", id, notice.gpadl_id);
      break;
    case Notice::Kind::kTlConnect:
      absl::StrAppend(&text_, "@ tl-connect endpoint=", GuidText(notice.guids[0]),
                      " service=", GuidText(notice.guids[1]), " silo=", GuidText(notice.guids[2]), "\n");
      break;
  }
}

absl::StatusOr<std::string> ReplayTranscript(absl::string_view text, GuestMemory& memory,
                                             const ServerOptions& options) {
  Replayer replayer(memory, options);
  int number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    const absl::Status status = replayer.Line(line);
    if (!status.ok()) return absl::InvalidArgumentError(absl::StrCat("line ", number, ": ", status.message()));
  }
  return replayer.text();
}

}  // namespace hvsdk::vmbus
