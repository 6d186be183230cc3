// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/input/keys.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/match.h"

namespace hvsdk::input {
namespace {

constexpr Key kKeys[] = {
    {"Escape", 0x01, 1, 0xFF1B, 0, 0},
    {"Digit1", 0x02, 2, 0, '1', '!'},
    {"Digit2", 0x03, 3, 0, '2', '@'},
    {"Digit3", 0x04, 4, 0, '3', '#'},
    {"Digit4", 0x05, 5, 0, '4', '$'},
    {"Digit5", 0x06, 6, 0, '5', '%'},
    {"Digit6", 0x07, 7, 0, '6', '^'},
    {"Digit7", 0x08, 8, 0, '7', '&'},
    {"Digit8", 0x09, 9, 0, '8', '*'},
    {"Digit9", 0x0A, 10, 0, '9', '('},
    {"Digit0", 0x0B, 11, 0, '0', ')'},
    {"Minus", 0x0C, 12, 0, '-', '_'},
    {"Equal", 0x0D, 13, 0, '=', '+'},
    {"Backspace", 0x0E, 14, 0xFF08, 0, 0},
    {"Tab", 0x0F, 15, 0xFF09, 0, 0},
    {"KeyQ", 0x10, 16, 0, 'q', 'Q'},
    {"KeyW", 0x11, 17, 0, 'w', 'W'},
    {"KeyE", 0x12, 18, 0, 'e', 'E'},
    {"KeyR", 0x13, 19, 0, 'r', 'R'},
    {"KeyT", 0x14, 20, 0, 't', 'T'},
    {"KeyY", 0x15, 21, 0, 'y', 'Y'},
    {"KeyU", 0x16, 22, 0, 'u', 'U'},
    {"KeyI", 0x17, 23, 0, 'i', 'I'},
    {"KeyO", 0x18, 24, 0, 'o', 'O'},
    {"KeyP", 0x19, 25, 0, 'p', 'P'},
    {"BracketLeft", 0x1A, 26, 0, '[', '{'},
    {"BracketRight", 0x1B, 27, 0, ']', '}'},
    {"Enter", 0x1C, 28, 0xFF0D, 0, 0},
    {"ControlLeft", 0x1D, 29, 0xFFE3, 0, 0},
    {"KeyA", 0x1E, 30, 0, 'a', 'A'},
    {"KeyS", 0x1F, 31, 0, 's', 'S'},
    {"KeyD", 0x20, 32, 0, 'd', 'D'},
    {"KeyF", 0x21, 33, 0, 'f', 'F'},
    {"KeyG", 0x22, 34, 0, 'g', 'G'},
    {"KeyH", 0x23, 35, 0, 'h', 'H'},
    {"KeyJ", 0x24, 36, 0, 'j', 'J'},
    {"KeyK", 0x25, 37, 0, 'k', 'K'},
    {"KeyL", 0x26, 38, 0, 'l', 'L'},
    {"Semicolon", 0x27, 39, 0, ';', ':'},
    {"Quote", 0x28, 40, 0, '\'', '"'},
    {"Backquote", 0x29, 41, 0, '`', '~'},
    {"ShiftLeft", 0x2A, 42, 0xFFE1, 0, 0},
    {"Backslash", 0x2B, 43, 0, '\\', '|'},
    {"KeyZ", 0x2C, 44, 0, 'z', 'Z'},
    {"KeyX", 0x2D, 45, 0, 'x', 'X'},
    {"KeyC", 0x2E, 46, 0, 'c', 'C'},
    {"KeyV", 0x2F, 47, 0, 'v', 'V'},
    {"KeyB", 0x30, 48, 0, 'b', 'B'},
    {"KeyN", 0x31, 49, 0, 'n', 'N'},
    {"KeyM", 0x32, 50, 0, 'm', 'M'},
    {"Comma", 0x33, 51, 0, ',', '<'},
    {"Period", 0x34, 52, 0, '.', '>'},
    {"Slash", 0x35, 53, 0, '/', '?'},
    {"ShiftRight", 0x36, 54, 0xFFE2, 0, 0},
    {"NumpadMultiply", 0x37, 55, 0xFFAA, 0, 0},
    {"AltLeft", 0x38, 56, 0xFFE9, 0, 0},
    {"Space", 0x39, 57, 0, ' ', ' '},
    {"CapsLock", 0x3A, 58, 0xFFE5, 0, 0},
    {"F1", 0x3B, 59, 0xFFBE, 0, 0},
    {"F2", 0x3C, 60, 0xFFBF, 0, 0},
    {"F3", 0x3D, 61, 0xFFC0, 0, 0},
    {"F4", 0x3E, 62, 0xFFC1, 0, 0},
    {"F5", 0x3F, 63, 0xFFC2, 0, 0},
    {"F6", 0x40, 64, 0xFFC3, 0, 0},
    {"F7", 0x41, 65, 0xFFC4, 0, 0},
    {"F8", 0x42, 66, 0xFFC5, 0, 0},
    {"F9", 0x43, 67, 0xFFC6, 0, 0},
    {"F10", 0x44, 68, 0xFFC7, 0, 0},
    {"NumLock", 0x45, 69, 0xFF7F, 0, 0},
    {"ScrollLock", 0x46, 70, 0xFF14, 0, 0},
    {"Numpad7", 0x47, 71, 0xFFB7, 0, 0},
    {"Numpad8", 0x48, 72, 0xFFB8, 0, 0},
    {"Numpad9", 0x49, 73, 0xFFB9, 0, 0},
    {"NumpadSubtract", 0x4A, 74, 0xFFAD, 0, 0},
    {"Numpad4", 0x4B, 75, 0xFFB4, 0, 0},
    {"Numpad5", 0x4C, 76, 0xFFB5, 0, 0},
    {"Numpad6", 0x4D, 77, 0xFFB6, 0, 0},
    {"NumpadAdd", 0x4E, 78, 0xFFAB, 0, 0},
    {"Numpad1", 0x4F, 79, 0xFFB1, 0, 0},
    {"Numpad2", 0x50, 80, 0xFFB2, 0, 0},
    {"Numpad3", 0x51, 81, 0xFFB3, 0, 0},
    {"Numpad0", 0x52, 82, 0xFFB0, 0, 0},
    {"NumpadDecimal", 0x53, 83, 0xFFAE, 0, 0},
    {"IntlBackslash", 0x56, 86, 0, 0, 0},
    {"F11", 0x57, 87, 0xFFC8, 0, 0},
    {"F12", 0x58, 88, 0xFFC9, 0, 0},
    {"NumpadEqual", 0x59, 117, 0xFFBD, 0, 0},
    {"F13", 0x64, 183, 0xFFCA, 0, 0},
    {"F14", 0x65, 184, 0xFFCB, 0, 0},
    {"F15", 0x66, 185, 0xFFCC, 0, 0},
    {"F16", 0x67, 186, 0xFFCD, 0, 0},
    {"F17", 0x68, 187, 0xFFCE, 0, 0},
    {"F18", 0x69, 188, 0xFFCF, 0, 0},
    {"F19", 0x6A, 189, 0xFFD0, 0, 0},
    {"F20", 0x6B, 190, 0xFFD1, 0, 0},
    {"F21", 0x6C, 191, 0xFFD2, 0, 0},
    {"F22", 0x6D, 192, 0xFFD3, 0, 0},
    {"F23", 0x6E, 193, 0xFFD4, 0, 0},
    {"F24", 0x76, 194, 0xFFD5, 0, 0},
    {"KanaMode", 0x70, 93, 0, 0, 0},
    {"IntlRo", 0x73, 89, 0, 0, 0},
    {"Convert", 0x79, 92, 0, 0, 0},
    {"NonConvert", 0x7B, 94, 0, 0, 0},
    {"IntlYen", 0x7D, 124, 0, 0, 0},
    {"NumpadComma", 0x7E, 121, 0xFFAC, 0, 0},
    {"MediaTrackPrevious", 0xE010, 165, 0, 0, 0},
    {"MediaTrackNext", 0xE019, 163, 0, 0, 0},
    {"NumpadEnter", 0xE01C, 96, 0xFF8D, 0, 0},
    {"ControlRight", 0xE01D, 97, 0xFFE4, 0, 0},
    {"AudioVolumeMute", 0xE020, 113, 0, 0, 0},
    {"MediaPlayPause", 0xE022, 164, 0, 0, 0},
    {"MediaStop", 0xE024, 166, 0, 0, 0},
    {"AudioVolumeDown", 0xE02E, 114, 0, 0, 0},
    {"AudioVolumeUp", 0xE030, 115, 0, 0, 0},
    {"NumpadDivide", 0xE035, 98, 0xFFAF, 0, 0},
    {"PrintScreen", 0xE037, 99, 0xFF61, 0, 0},
    {"AltRight", 0xE038, 100, 0xFFEA, 0, 0},
    {"Home", 0xE047, 102, 0xFF50, 0, 0},
    {"ArrowUp", 0xE048, 103, 0xFF52, 0, 0},
    {"PageUp", 0xE049, 104, 0xFF55, 0, 0},
    {"ArrowLeft", 0xE04B, 105, 0xFF51, 0, 0},
    {"ArrowRight", 0xE04D, 106, 0xFF53, 0, 0},
    {"End", 0xE04F, 107, 0xFF57, 0, 0},
    {"ArrowDown", 0xE050, 108, 0xFF54, 0, 0},
    {"PageDown", 0xE051, 109, 0xFF56, 0, 0},
    {"Insert", 0xE052, 110, 0xFF63, 0, 0},
    {"Delete", 0xE053, 111, 0xFFFF, 0, 0},
    {"MetaLeft", 0xE05B, 125, 0xFFEB, 0, 0},
    {"MetaRight", 0xE05C, 126, 0xFFEC, 0, 0},
    {"ContextMenu", 0xE05D, 127, 0xFF67, 0, 0},
    {"Power", 0xE05E, 116, 0, 0, 0},
    {"Sleep", 0xE05F, 142, 0, 0, 0},
    {"WakeUp", 0xE063, 143, 0, 0, 0},
    {"Pause", 0xE11D, 119, 0xFF13, 0, 0},
    {"SysRq", 0x54, 0, 0xFF15, 0, 0},
};

struct Alias {
  const char* name;
  const char* code;
};

constexpr Alias kAliases[] = {
    {"alt", "AltLeft"},         {"altgr", "AltRight"},       {"break", "Pause"},      {"caps", "CapsLock"},
    {"control", "ControlLeft"}, {"ctrl", "ControlLeft"},     {"del", "Delete"},       {"down", "ArrowDown"},
    {"esc", "Escape"},          {"ins", "Insert"},           {"left", "ArrowLeft"},   {"menu", "ContextMenu"},
    {"meta", "MetaLeft"},       {"mute", "AudioVolumeMute"}, {"pgdn", "PageDown"},    {"pgup", "PageUp"},
    {"print", "PrintScreen"},   {"return", "Enter"},         {"right", "ArrowRight"}, {"shift", "ShiftLeft"},
    {"super", "MetaLeft"},      {"up", "ArrowUp"},           {"win", "MetaLeft"},     {"windows", "MetaLeft"},
};

}  // namespace

bool Key::is_keypad() const { return absl::StartsWith(code, "Numpad"); }

absl::Span<const Key> Keys() { return kKeys; }

const Key* FindKey(absl::string_view name) {
  for (const Alias& alias : kAliases) {
    if (absl::EqualsIgnoreCase(alias.name, name)) name = alias.code;
  }
  const auto* const found = std::find_if(std::begin(kKeys), std::end(kKeys),
                                         [&](const Key& key) { return absl::EqualsIgnoreCase(key.code, name); });
  return found == std::end(kKeys) ? nullptr : found;
}

const Key* FindKeyByLinuxCode(uint32_t code) {
  const auto* const found =
      std::find_if(std::begin(kKeys), std::end(kKeys), [&](const Key& key) { return key.linux_code == code; });
  return code == 0 || found == std::end(kKeys) ? nullptr : found;
}

}  // namespace hvsdk::input
