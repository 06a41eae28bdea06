package load

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
)

// webSocket is one WebSocket (RFC 6455) to an echo. A "request" is one text
// message and its echo.
type webSocket struct {
	opts *Options
	conn net.Conn
	r    *bufio.Reader
	n    int
}

func openWebSocket(ctx context.Context, o *Options) (session, error) {
	c, err := connect(ctx, o, "http/1.1")
	if err != nil {
		return nil, err
	}
	w := &webSocket{opts: o, conn: c, r: bufio.NewReader(c)}
	if err := w.upgrade(ctx); err != nil {
		_ = c.Close()
		return nil, err
	}
	return w, nil
}

func (w *webSocket) upgrade(ctx context.Context) error {
	deadline, _ := ctx.Deadline()
	_ = w.conn.SetDeadline(deadline)
	var key [16]byte
	_, _ = rand.Read(key[:])
	_, err := fmt.Fprintf(w.conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n",
		w.opts.Echo, w.opts.Host, base64.StdEncoding.EncodeToString(key[:]))
	if err != nil {
		return err
	}
	resp, err := http.ReadResponse(w.r, nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("upgrade: status %s", resp.Status)
	}
	return nil
}

func (w *webSocket) close() { _ = w.conn.Close() }

// errClosed is the other side's goodbye.
var errClosed = errors.New("the WebSocket was closed")

func (w *webSocket) do(ctx context.Context, _, _ string) (bool, Phase, error) {
	deadline, _ := ctx.Deadline()
	_ = w.conn.SetDeadline(deadline)
	w.n++
	message := fmt.Sprintf("message %d", w.n)
	if err := w.send(message); err != nil {
		return false, Write, err
	}
	for {
		opcode, payload, err := w.receive()
		switch {
		case err != nil:
			return false, Mid, err
		case opcode == opClose:
			return false, Mid, errClosed
		case opcode == opText && string(payload) == message:
			return true, "", nil
		case opcode == opText:
			continue // what the backend sends by itself
		}
	}
}

// Opcodes of RFC 6455 §5.2.
const (
	opText  = 1
	opClose = 8
)

// send writes one masked text frame, as a client must. A mask of zeros is a
// mask.
func (w *webSocket) send(message string) error {
	frame := append([]byte{0x80 | opText, 0x80 | byte(len(message)), 0, 0, 0, 0}, message...)
	_, err := w.conn.Write(frame)
	return err
}

func (w *webSocket) receive() (opcode byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(w.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := int(head[1] & 0x7f)
	if n == 126 {
		var long [2]byte
		if _, err := io.ReadFull(w.r, long[:]); err != nil {
			return 0, nil, err
		}
		n = int(binary.BigEndian.Uint16(long[:]))
	}
	if n == 127 {
		return 0, nil, errors.New("a frame of more than 64 KiB")
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(w.r, payload)
	return head[0] & 0x0f, payload, err
}
