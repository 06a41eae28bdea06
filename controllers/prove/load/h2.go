package load

//lint:file-ignore SA1019 net/http offers whole servers and transports; here HTTP/2 is spoken on a connection that was accepted or dialled before.

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"golang.org/x/net/http2"
)

// unusable is what a ClientConn says of a request that it did not begin, since
// the server's GOAWAY had arrived by then. The error itself is not exported.
const unusable = "http2: client conn not usable"

// h2 is one HTTP/2 connection. The ClientConn is used without a Transport's
// pool, which would send a request again.
type h2 struct {
	opts *Options
	conn *http2.ClientConn
}

func openH2(ctx context.Context, o *Options) (session, error) {
	conn, err := connectH2(ctx, o)
	if err != nil {
		return nil, err
	}
	return &h2{opts: o, conn: conn}, nil
}

func connectH2(ctx context.Context, o *Options) (*http2.ClientConn, error) {
	c, err := connect(ctx, o, "h2")
	if err != nil {
		return nil, err
	}
	conn, err := new(http2.Transport).NewClientConn(c)
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return conn, nil
}

func (h *h2) close() { _ = h.conn.Close() }

func (h *h2) do(ctx context.Context, method, body string) (bool, Phase, error) {
	req, err := http.NewRequestWithContext(ctx, method, "https://"+h.opts.Host+h.opts.Path, strings.NewReader(body))
	if err != nil {
		return false, Write, err
	}
	if body == "" {
		req.Body = nil
	}
	resp, err := h.conn.RoundTrip(req)
	if err != nil && err.Error() == unusable {
		return false, unsent, err
	}
	if err != nil {
		return false, FirstByte, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return false, Mid, err
	}
	if resp.StatusCode/100 != 2 {
		return h.usable(), Status, fmt.Errorf("status %s", resp.Status)
	}
	return h.usable(), "", nil
}

// usable reports whether the server has not asked to end the connection.
func (h *h2) usable() bool { return h.conn.CanTakeNewRequest() }
