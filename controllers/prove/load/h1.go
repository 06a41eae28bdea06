package load

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
)

// h1 is one HTTP/1.1 connection.
type h1 struct {
	opts *Options
	conn net.Conn
	r    *bufio.Reader
}

func openH1(ctx context.Context, o *Options) (session, error) {
	c, err := connect(ctx, o, "http/1.1")
	if err != nil {
		return nil, err
	}
	return &h1{opts: o, conn: c, r: bufio.NewReader(c)}, nil
}

func (h *h1) close() { _ = h.conn.Close() }

func (h *h1) do(ctx context.Context, method, body string) (bool, Phase, error) {
	deadline, _ := ctx.Deadline()
	_ = h.conn.SetDeadline(deadline)
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\n", method, h.opts.Path, h.opts.Host)
	if body != "" {
		head += fmt.Sprintf("Content-Length: %d\r\n", len(body))
	}
	if _, err := io.WriteString(h.conn, head+"\r\n"+body); err != nil {
		return false, Write, err
	}
	if _, err := h.r.Peek(1); err != nil {
		return false, FirstByte, err
	}
	resp, err := http.ReadResponse(h.r, &http.Request{Method: method})
	if err != nil {
		return false, Mid, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return false, Mid, err
	}
	if resp.StatusCode/100 != 2 {
		return !resp.Close, Status, fmt.Errorf("status %s", resp.Status)
	}
	return !resp.Close, "", nil
}
