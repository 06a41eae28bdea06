package h2

import "encoding/binary"

const (
	frameHead = 9        // bytes before a payload
	minFrame  = 16 << 10 // what every endpoint takes, and what we take
	maxFrame  = 1<<24 - 1
	maxWindow = 1<<31 - 1
	maxID     = 1<<31 - 1
	// defaultWindow is every window before SETTINGS and WINDOW_UPDATE.
	defaultWindow = 1<<16 - 1
)

type frameType uint8

const (
	frameData         frameType = 0x0
	frameHeaders      frameType = 0x1
	framePriority     frameType = 0x2
	frameReset        frameType = 0x3
	frameSettings     frameType = 0x4
	framePush         frameType = 0x5
	framePing         frameType = 0x6
	frameGoAway       frameType = 0x7
	frameWindow       frameType = 0x8
	frameContinuation frameType = 0x9
)

const (
	flagAck        = 0x1
	flagEndStream  = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// header is the head of a frame.
type header struct {
	length int
	kind   frameType
	flags  uint8
	id     uint32
}

func parseHeader(p []byte) header {
	return header{
		length: int(p[0])<<16 | int(p[1])<<8 | int(p[2]),
		kind:   frameType(p[3]),
		flags:  p[4],
		id:     binary.BigEndian.Uint32(p[5:]) & maxID,
	}
}

func (h header) has(flag uint8) bool { return h.flags&flag != 0 }

func appendHeader(b []byte, length int, kind frameType, flags uint8, id uint32) []byte {
	b = append(b, byte(length>>16), byte(length>>8), byte(length), byte(kind), flags)
	return binary.BigEndian.AppendUint32(b, id)
}

func appendReset(b []byte, id uint32, code Code) []byte {
	b = appendHeader(b, 4, frameReset, 0, id)
	return binary.BigEndian.AppendUint32(b, uint32(code))
}

func appendWindow(b []byte, id uint32, n int) []byte {
	b = appendHeader(b, 4, frameWindow, 0, id)
	return binary.BigEndian.AppendUint32(b, uint32(n))
}

func appendGoAway(b []byte, last uint32, code Code) []byte {
	b = appendHeader(b, 8, frameGoAway, 0, 0)
	b = binary.BigEndian.AppendUint32(b, last)
	return binary.BigEndian.AppendUint32(b, uint32(code))
}

func appendPing(b []byte, flags uint8, payload []byte) []byte {
	b = appendHeader(b, 8, framePing, flags, 0)
	return append(b, payload...)
}
