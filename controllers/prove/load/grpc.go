package load

//lint:file-ignore SA1019 see h2.go

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"

	"golang.org/x/net/http2"
)

// grpcStream is one bidirectional gRPC stream to an echo, on a connection of
// its own. A "request" is one message and its echo.
type grpcStream struct {
	conn   *http2.ClientConn
	cancel context.CancelFunc
	w      *io.PipeWriter
	answer chan grpcAnswer // one value: the head of the response, or why there is none
	body   io.ReadCloser   // once there is a head
	n      int
}

type grpcAnswer struct {
	resp *http.Response
	err  error
}

func openGRPC(ctx context.Context, o *Options) (session, error) {
	cc, err := connectH2(ctx, o)
	if err != nil {
		return nil, err
	}
	streaming, cancel := context.WithCancel(context.Background()) // ctx is that of the first message
	r, w := io.Pipe()
	req, err := http.NewRequestWithContext(streaming, http.MethodPost, "https://"+o.Host+o.Stream, r)
	if err != nil {
		cancel()
		_ = cc.Close()
		return nil, err
	}
	req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}
	s := &grpcStream{conn: cc, cancel: cancel, w: w, answer: make(chan grpcAnswer, 1)}
	go func() {
		resp, err := cc.RoundTrip(req)
		s.answer <- grpcAnswer{resp, err}
	}()
	return s, nil
}

func (s *grpcStream) close() {
	s.cancel()
	_ = s.w.CloseWithError(errClosed)
	_ = s.conn.Close()
}

func (s *grpcStream) do(ctx context.Context, _, _ string) (bool, Phase, error) {
	defer context.AfterFunc(ctx, s.close)()
	s.n++
	message := fmt.Sprintf("message %d", s.n)
	if err := s.send(message); err != nil {
		return false, Write, err
	}
	if s.body == nil {
		if err := s.begin(ctx); err != nil {
			return false, FirstByte, err
		}
	}
	got, err := s.receive()
	if err == nil && got != message {
		err = fmt.Errorf("%q came back instead of %q", got, message)
	}
	return err == nil, Mid, err
}

// begin takes the head of the response, which servers send with the first
// message.
func (s *grpcStream) begin(ctx context.Context) error {
	select {
	case a := <-s.answer:
		if a.err != nil {
			return a.err
		}
		if a.resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %s", a.resp.Status)
		}
		s.body = a.resp.Body
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// send writes one message, not compressed, behind its length.
func (s *grpcStream) send(message string) error {
	_, err := s.w.Write(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...))
	return err
}

func (s *grpcStream) receive() (string, error) {
	var head [5]byte
	if _, err := io.ReadFull(s.body, head[:]); err != nil {
		return "", err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > 64<<10 {
		return "", errors.New("a message of more than 64 KiB")
	}
	message := make([]byte, n)
	_, err := io.ReadFull(s.body, message)
	return string(message), err
}
