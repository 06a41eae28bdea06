package h2

import "encoding/binary"

// The settings of RFC 9113 §6.5.2, RFC 8441 and RFC 9218.
const (
	settingTableSize       = 0x1
	settingEnablePush      = 0x2
	settingMaxStreams      = 0x3
	settingInitialWindow   = 0x4
	settingMaxFrame        = 0x5
	settingMaxHeaderList   = 0x6
	settingConnectProtocol = 0x8
	settingNoPriorities    = 0x9
)

// peerSettings are what the other side asks us to respect.
type peerSettings struct {
	initialWindow   int64
	maxFrame        int
	maxStreams      uint32
	connectProtocol bool
}

// appendSettings announces our own settings.
func (c *Conn) appendSettings(b []byte) []byte {
	type setting struct {
		id    uint16
		value uint32
	}
	list := []setting{
		{settingInitialWindow, uint32(c.opts.StreamWindow)},
		{settingMaxHeaderList, uint32(c.opts.Limits.Head)},
	}
	if c.opts.Client {
		list = append(list, setting{settingEnablePush, 0})
	} else {
		list = append(list, setting{settingMaxStreams, uint32(c.opts.MaxStreams)}, setting{settingConnectProtocol, 1}, setting{settingNoPriorities, 1})
	}
	b = appendHeader(b, 6*len(list), frameSettings, 0, 0)
	for _, s := range list {
		b = binary.BigEndian.AppendUint16(b, s.id)
		b = binary.BigEndian.AppendUint32(b, s.value)
	}
	return b
}

// onSettings takes a SETTINGS frame.
func (c *Conn) onSettings(h header, p []byte) error {
	switch {
	case h.id != 0:
		return connError(ProtocolError, "SETTINGS on a stream")
	case h.has(flagAck) && len(p) > 0:
		return connError(FrameSizeError, "SETTINGS with ACK and a payload")
	case h.has(flagAck):
		return nil
	case len(p)%6 != 0:
		return connError(FrameSizeError, "SETTINGS of a broken length")
	}
	for ; len(p) > 0; p = p[6:] {
		if err := c.set(binary.BigEndian.Uint16(p), binary.BigEndian.Uint32(p[2:])); err != nil {
			return err
		}
	}
	c.settled = true
	c.out = appendHeader(c.out, 0, frameSettings, flagAck, 0)
	c.handler.Settings()
	return nil
}

// set takes one setting. Our encoder keeps no table, so its size is nothing to
// us; unknown settings are ignored.
func (c *Conn) set(id uint16, v uint32) error {
	switch id {
	case settingEnablePush:
		if v > 1 || c.opts.Client && v != 0 {
			return connError(ProtocolError, "SETTINGS_ENABLE_PUSH of a value that is not allowed")
		}
	case settingMaxStreams:
		c.peer.maxStreams = v
	case settingInitialWindow:
		if v > maxWindow {
			return connError(FlowControlError, "SETTINGS_INITIAL_WINDOW_SIZE over 2^31-1")
		}
		return c.moveWindows(int64(v))
	case settingMaxFrame:
		if v < minFrame || v > maxFrame {
			return connError(ProtocolError, "SETTINGS_MAX_FRAME_SIZE out of range")
		}
		c.peer.maxFrame = int(v)
	case settingConnectProtocol:
		if v > 1 || v == 0 && c.peer.connectProtocol {
			return connError(ProtocolError, "SETTINGS_ENABLE_CONNECT_PROTOCOL of a value that is not allowed")
		}
		c.peer.connectProtocol = v == 1
	}
	return nil
}

// moveWindows applies a new initial window to the streams that are open; their
// windows may become negative (RFC 9113 §6.9.2).
func (c *Conn) moveWindows(initial int64) error {
	delta := initial - c.peer.initialWindow
	c.peer.initialWindow = initial
	for _, s := range c.streams {
		if s.sendWindow += delta; s.sendWindow > maxWindow {
			return connError(FlowControlError, "SETTINGS_INITIAL_WINDOW_SIZE makes a window larger than 2^31-1")
		}
	}
	if delta > 0 {
		c.unblock()
	}
	return nil
}
