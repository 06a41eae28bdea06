package main

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// The opcodes of frames (RFC 6455 §5.2).
const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10

	final     = 0x80
	masked    = 0x80
	maxFrame  = 4 << 10
	writeTime = 10 * time.Second
)

// websocket is the server's end of a WebSocket, as far as a demo needs it:
// short messages in one frame each. Reading and writing may go on at once:
// every frame is one Write.
type websocket struct {
	conn net.Conn
	in   *bufio.Reader
}

// accept answers the opening handshake (RFC 6455 §4.2.2).
func accept(w http.ResponseWriter, r *http.Request) (*websocket, error) {
	key := r.Header.Get("Sec-WebSocket-Key")
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") || key == "" {
		return nil, errors.New("this is a WebSocket: connect with ws:// or wss://")
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	// The GUID is the RFC's; SHA-1 is no matter of security here.
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return &websocket{conn: conn, in: buffered.Reader}, nil
}

// write sends one frame.
func (ws *websocket) write(op byte, payload []byte) error {
	frame := []byte{final | op}
	if len(payload) < 126 {
		frame = append(frame, byte(len(payload)))
	} else {
		frame = binary.BigEndian.AppendUint16(append(frame, 126), uint16(len(payload)))
	}
	if err := ws.conn.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return err
	}
	_, err := ws.conn.Write(append(frame, payload...))
	return err
}

// read returns the next text message. When the client closes, so does it.
func (ws *websocket) read() (string, error) {
	for {
		op, payload, err := ws.frame()
		if err != nil {
			return "", err
		}
		switch op {
		case opText:
			return string(payload), nil
		case opPing:
			err = ws.write(opPong, payload)
		case opClose:
			_ = ws.write(opClose, payload)
			err = io.EOF
		}
		if err != nil {
			return "", err
		}
	}
}

// frame reads one frame and unmasks it (RFC 6455 §5.2, §5.3).
func (ws *websocket) frame() (op byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(ws.in, head[:]); err != nil {
		return 0, nil, err
	}
	size := int(head[1] &^ masked)
	if size == 126 {
		var extended [2]byte
		if _, err := io.ReadFull(ws.in, extended[:]); err != nil {
			return 0, nil, err
		}
		size = int(binary.BigEndian.Uint16(extended[:]))
	}
	if size > maxFrame || size == 127 || head[0]&final == 0 || head[1]&masked == 0 {
		return 0, nil, errors.New("a frame that this demo does not take")
	}
	frame := make([]byte, 4+size)
	if _, err := io.ReadFull(ws.in, frame); err != nil {
		return 0, nil, err
	}
	mask, payload := frame[:4], frame[4:]
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	return head[0] & 0x0f, payload, nil
}
