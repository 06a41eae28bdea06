package h2

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/portico-ingress/portico/router/view"
)

// recorder is a Handler that writes down what it is told, and answers requests
// if asked to.
type recorder struct {
	conn    *Conn
	events  []string
	streams map[uint32]*Stream
	blocked map[uint32][]byte // what SendData did not take
	hold    bool              // do not consume
}

func newRecorder(opts Options) *recorder {
	r := &recorder{streams: map[uint32]*Stream{}, blocked: map[uint32][]byte{}}
	r.conn = New(opts, r)
	return r
}

func (r *recorder) note(format string, args ...any) {
	r.events = append(r.events, fmt.Sprintf(format, args...))
}

func (r *recorder) Head(s *Stream, h *Head, end bool) {
	s.Owner = r
	r.streams[s.ID()] = s
	line := fmt.Sprintf("head %d %s%s %s://%s%s", s.ID(), h.Method, h.Protocol, h.Scheme, h.Authority, h.Path)
	if h.Status > 0 {
		line = fmt.Sprintf("head %d %d", s.ID(), h.Status)
	}
	for _, f := range h.Fields {
		line += " " + f.Name + "=" + f.Value
	}
	if h.Length >= 0 {
		line += fmt.Sprintf(" length %d", h.Length)
	}
	if h.Err != nil {
		line += fmt.Sprintf(" refused %d", h.Err.Status)
	}
	if end {
		line += " end"
	}
	r.note("%s", line)
}

// Data joins what belongs together, since a frame may come in parts.
func (r *recorder) Data(s *Stream, p []byte) {
	prefix := fmt.Sprintf("data %d ", s.ID())
	if n := len(r.events) - 1; n >= 0 && strings.HasPrefix(r.events[n], prefix) {
		r.events[n] += string(p)
	} else {
		r.note("%s%s", prefix, p)
	}
	if !r.hold {
		s.Consume(len(p))
	}
}

func (r *recorder) End(s *Stream, trailers view.Fields) {
	line := fmt.Sprintf("end %d", s.ID())
	for _, f := range trailers {
		line += " " + f.Name + "=" + f.Value
	}
	r.note("%s", line)
}

func (r *recorder) Closed(s *Stream, err *StreamError) {
	r.note("closed %d %s remote %v", s.ID(), err.Code, err.Remote)
}

func (r *recorder) Writable(s *Stream) {
	rest := r.blocked[s.ID()]
	r.blocked[s.ID()] = rest[s.SendData(rest, true):]
}

func (r *recorder) Malformed(string)              { r.note("malformed") }
func (r *recorder) Settings()                     {}
func (r *recorder) Noticed()                      { r.note("noticed") }
func (r *recorder) GoAway(last uint32, code Code) { r.note("goaway %d %s", last, code) }
func (r *recorder) Pong()                         { r.note("pong") }

// raw builds what a peer sends.
type raw struct {
	bytes.Buffer
	*http2.Framer
	enc *hpack.Encoder
	hp  bytes.Buffer
}

func newRaw(preface bool) *raw {
	r := &raw{}
	r.Framer = http2.NewFramer(&r.Buffer, nil)
	r.AllowIllegalWrites = true
	r.enc = hpack.NewEncoder(&r.hp)
	if preface {
		r.WriteString(Preface)
		r.WriteSettings()
	}
	return r
}

// block encodes name, value, name, value…
func (r *raw) block(fields ...string) []byte {
	r.hp.Reset()
	for i := 0; i < len(fields); i += 2 {
		r.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return slices.Clone(r.hp.Bytes())
}

var get = []string{":method", "GET", ":scheme", "https", ":authority", "h", ":path", "/"}

func (r *raw) head(id uint32, end bool, fields ...string) {
	r.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, EndStream: end, BlockFragment: r.block(fields...)})
}

// said lists the frames that a Conn sends, without SETTINGS.
func said(t testing.TB, out []byte) []string {
	t.Helper()
	var all []string
	fr := http2.NewFramer(nil, bytes.NewReader(bytes.TrimPrefix(out, []byte(Preface))))
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			if err.Error() != "EOF" {
				t.Fatalf("what is sent is no frame: %v\n%s", err, hex.Dump(out))
			}
			return all
		}
		switch f := f.(type) {
		case *http2.RSTStreamFrame:
			all = append(all, fmt.Sprintf("RST %d %v", f.StreamID, f.ErrCode))
		case *http2.GoAwayFrame:
			all = append(all, fmt.Sprintf("GOAWAY %d %v", f.LastStreamID, f.ErrCode))
		case *http2.PingFrame:
			all = append(all, fmt.Sprintf("PING ack %v", f.IsAck()))
		case *http2.WindowUpdateFrame:
			all = append(all, fmt.Sprintf("WINDOW %d %d", f.StreamID, f.Increment))
		case *http2.DataFrame:
			all = append(all, fmt.Sprintf("DATA %d %d end %v", f.StreamID, len(f.Data()), f.StreamEnded()))
		case *http2.MetaHeadersFrame:
			line := fmt.Sprintf("HEAD %d end %v", f.StreamID, f.StreamEnded())
			for _, h := range f.Fields {
				line += " " + h.Name + "=" + h.Value
			}
			all = append(all, line)
		}
	}
}

// TestRequests feeds a server, whole and byte by byte.
func TestRequests(t *testing.T) {
	with := func(more ...string) []string { return append(slices.Clone(get), more...) }
	long := strings.Repeat("x", 20<<10)
	for name, tc := range map[string]struct {
		send   func(*raw)
		events []string
		said   []string // in what is sent
	}{
		"get":     {func(r *raw) { r.head(1, true, get...) }, []string{"head 1 GET https://h/ end"}, nil},
		"host":    {func(r *raw) { r.head(1, true, ":method", "GET", ":scheme", "http", ":path", "/a?b", "host", "x") }, []string{"head 1 GET http://x/a?b end"}, nil},
		"cookies": {func(r *raw) { r.head(1, true, with("cookie", "a=1", "x", "y", "cookie", "b=2")...) }, []string{"head 1 GET https://h/ cookie=a=1; b=2 x=y end"}, nil},
		"crumbs":  {func(r *raw) { r.head(1, true, with("cookie", "a", "cookie", "b", "cookie", "c", "x", "y")...) }, []string{"head 1 GET https://h/ cookie=a; b; c x=y end"}, nil},
		"fields":  {func(r *raw) { r.head(1, true, with("te", "trailers", "content-length", "0")...) }, []string{"head 1 GET https://h/ te=trailers length 0 end"}, nil},
		"long": {func(r *raw) {
			b := r.block(with("l", long)...)
			r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: true, BlockFragment: b[:9000]})
			r.WriteContinuation(1, true, b[9000:])
		}, []string{"head 1 GET https://h/ l=" + long + " end"}, nil},
		"priority": {func(r *raw) {
			r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: true, EndHeaders: true, PadLength: 9, Priority: http2.PriorityParam{StreamDep: 3}, BlockFragment: r.block(get...)})
		}, []string{"head 1 GET https://h/ end"}, nil},
		"body": {func(r *raw) {
			r.head(1, false, with("content-length", "5")...)
			r.WriteDataPadded(1, false, []byte("he"), make([]byte, 7))
			r.WriteData(1, true, []byte("llo"))
		}, []string{"head 1 GET https://h/ length 5", "data 1 hello", "end 1"}, nil},
		"trailers": {func(r *raw) {
			r.head(1, false, get...)
			r.WriteData(1, false, []byte("x"))
			r.head(1, true, "grpc-status", "0", "content-length", "9")
		}, []string{"head 1 GET https://h/", "data 1 x", "end 1 grpc-status=0"}, nil},
		"connect": {func(r *raw) { r.head(1, false, ":method", "CONNECT", ":authority", "h:1") }, []string{"head 1 CONNECT ://h:1"}, nil},
		"websocket": {func(r *raw) {
			r.head(1, false, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":path", "/c", ":authority", "h")
		}, []string{"head 1 CONNECTwebsocket https://h/c"}, nil},
		"many": {func(r *raw) { r.head(1, true, get...); r.head(3, true, get...); r.head(7, true, get...) }, []string{"head 1 GET https://h/ end", "head 3 GET https://h/ end", "head 7 GET https://h/ end"}, nil},
		"cancelled": {func(r *raw) {
			r.head(1, false, get...)
			r.WriteRSTStream(1, http2.ErrCodeCancel)
			r.WriteRSTStream(1, http2.ErrCodeCancel)
		}, []string{"head 1 GET https://h/", "closed 1 CANCEL remote true"}, nil},
		"ping":          {func(r *raw) { r.WritePing(false, [8]byte{1}) }, nil, []string{"PING ack true"}},
		"unknown frame": {func(r *raw) { r.WriteRawFrame(0xfa, 0xff, 7, []byte("x")); r.head(1, true, get...) }, []string{"head 1 GET https://h/ end"}, nil},

		"too short": {func(r *raw) { r.head(1, false, with("content-length", "5")...); r.WriteData(1, true, []byte("abc")) }, []string{"head 1 GET https://h/ length 5", "data 1 abc", "closed 1 PROTOCOL_ERROR remote false"}, []string{"RST 1 PROTOCOL_ERROR"}},
		"too long": {func(r *raw) {
			r.head(1, false, with("content-length", "2")...)
			r.WriteData(1, false, []byte("ab"))
			r.WriteData(1, true, []byte("c"))
		}, []string{"head 1 GET https://h/ length 2", "data 1 ab", "closed 1 PROTOCOL_ERROR remote false"}, []string{"RST 1 PROTOCOL_ERROR"}},
		"no body at all": {func(r *raw) { r.head(1, true, with("content-length", "2")...) }, []string{"malformed"}, []string{"RST 1 PROTOCOL_ERROR"}},
		"lengths differ": {func(r *raw) { r.head(1, false, with("content-length", "2", "content-length", "3")...) }, []string{"malformed"}, []string{"RST 1 PROTOCOL_ERROR"}},
		"upper case":     {func(r *raw) { r.head(1, true, with("Abc", "d")...) }, []string{"malformed"}, []string{"RST 1 PROTOCOL_ERROR"}},
		"line break":     {func(r *raw) { r.head(1, true, with("a", "b\r\nc: d")...) }, []string{"malformed"}, []string{"RST 1 PROTOCOL_ERROR"}},
		"space around":   {func(r *raw) { r.head(1, true, with("a", " b")...) }, []string{"malformed"}, []string{"RST 1 PROTOCOL_ERROR"}},
		"connection":     {func(r *raw) { r.head(1, true, with("connection", "close")...) }, []string{"malformed"}, []string{"RST 1 PROTOCOL_ERROR"}},
		"other host":     {func(r *raw) { r.head(1, true, with("host", "other")...) }, []string{"malformed"}, []string{"RST 1 PROTOCOL_ERROR"}},
		"user info":      {func(r *raw) { r.head(1, true, ":method", "GET", ":scheme", "https", ":authority", "u@h", ":path", "/") }, []string{"malformed"}, []string{"RST 1 PROTOCOL_ERROR"}},
		"pseudo behind":  {func(r *raw) { r.head(1, true, append([]string{"a", "b"}, get...)...) }, []string{"malformed"}, []string{"RST 1 PROTOCOL_ERROR"}},
		"status":         {func(r *raw) { r.head(1, true, with(":status", "200")...) }, []string{"malformed"}, []string{"RST 1 PROTOCOL_ERROR"}},
		"no path":        {func(r *raw) { r.head(1, true, ":method", "GET", ":scheme", "https", ":authority", "h") }, []string{"malformed"}, []string{"RST 1 PROTOCOL_ERROR"}},
		"a path of words": {func(r *raw) {
			r.head(1, true, ":method", "GET", ":scheme", "https", ":authority", "h", ":path", "/x HTTP/1.1")
		}, []string{"malformed"}, []string{"RST 1 PROTOCOL_ERROR"}},
		"star":             {func(r *raw) { r.head(1, true, ":method", "GET", ":scheme", "https", ":authority", "h", ":path", "*") }, []string{"malformed"}, []string{"RST 1 PROTOCOL_ERROR"}},
		"connect and path": {func(r *raw) { r.head(1, true, ":method", "CONNECT", ":authority", "h", ":path", "/") }, []string{"malformed"}, []string{"RST 1 PROTOCOL_ERROR"}},
		"more windows": {func(r *raw) { r.head(1, true, get...); r.WriteWindowUpdate(1, 1<<31-1) }, []string{"head 1 GET https://h/ end", "closed 1 FLOW_CONTROL_ERROR remote false"},
			[]string{"RST 1 FLOW_CONTROL_ERROR"}},
		"on a reset stream": {func(r *raw) {
			r.head(1, false, with("Bad", "x")...)
			r.WriteData(1, true, []byte("on its way"))
			r.head(3, true, get...)
		},
			[]string{"malformed", "head 3 GET https://h/ end"}, []string{"RST 1 PROTOCOL_ERROR"}},
		"data after the end": {func(r *raw) { r.head(1, true, get...); r.WriteData(1, true, []byte("x")) },
			[]string{"head 1 GET https://h/ end", "closed 1 STREAM_CLOSED remote false"}, []string{"RST 1 STREAM_CLOSED"}},

		"an even stream":  {func(r *raw) { r.head(2, true, get...) }, nil, []string{"GOAWAY 0 PROTOCOL_ERROR"}},
		"an older stream": {func(r *raw) { r.head(5, true, get...); r.head(3, true, get...) }, []string{"head 5 GET https://h/ end", "closed 5 PROTOCOL_ERROR remote false"}, []string{"GOAWAY 5 PROTOCOL_ERROR"}},
		"an idle stream":  {func(r *raw) { r.WriteData(1, true, []byte("x")) }, nil, []string{"GOAWAY 0 PROTOCOL_ERROR"}},
		"a big frame":     {func(r *raw) { r.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 16<<10+1)) }, nil, []string{"GOAWAY 0 FRAME_SIZE_ERROR"}},
		"interrupted": {func(r *raw) {
			r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: r.block(get...)})
			r.WritePing(false, [8]byte{})
		}, nil, []string{"GOAWAY 1 PROTOCOL_ERROR"}},
		"a broken block": {func(r *raw) {
			r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: []byte{0x80}})
		}, nil, []string{"GOAWAY 1 COMPRESSION_ERROR"}},
		"push":         {func(r *raw) { r.WriteRawFrame(http2.FramePushPromise, 4, 1, make([]byte, 8)) }, nil, []string{"GOAWAY 0 PROTOCOL_ERROR"}},
		"padding only": {func(r *raw) { r.head(1, false, get...); r.WriteRawFrame(http2.FrameData, 8, 1, []byte{9, 1}) }, []string{"head 1 GET https://h/", "closed 1 PROTOCOL_ERROR remote false"}, []string{"GOAWAY 1 PROTOCOL_ERROR"}},
		"continuations": {func(r *raw) {
			r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: nil})
			for range 30 {
				r.WriteContinuation(1, false, nil)
			}
		}, nil, []string{"GOAWAY 1 ENHANCE_YOUR_CALM"}},
		"pings": {func(r *raw) {
			for range 1001 {
				r.WritePing(false, [8]byte{})
			}
		}, nil, []string{"GOAWAY 0 ENHANCE_YOUR_CALM"}},
		"settings": {func(r *raw) {
			for range 1001 {
				r.WriteSettings()
			}
		}, nil, []string{"GOAWAY 0 ENHANCE_YOUR_CALM"}},
		"empty data": {func(r *raw) {
			r.head(1, false, get...)
			for range 1020 {
				r.WriteData(1, false, nil)
			}
		}, []string{"head 1 GET https://h/", "closed 1 ENHANCE_YOUR_CALM remote false"}, []string{"GOAWAY 1 ENHANCE_YOUR_CALM"}},
		"padded nothing": {func(r *raw) {
			r.head(1, false, get...)
			for range 1020 {
				r.WriteRawFrame(http2.FrameData, http2.FlagDataPadded, 1, []byte{1, 0})
			}
		}, []string{"head 1 GET https://h/", "closed 1 ENHANCE_YOUR_CALM remote false"}, []string{"GOAWAY 1 ENHANCE_YOUR_CALM"}},
		"small messages": {func(r *raw) {
			r.head(1, false, get...)
			for range 5000 {
				r.WriteData(1, false, []byte("m"))
			}
			r.WriteData(1, true, nil)
		}, []string{"head 1 GET https://h/", "data 1 " + strings.Repeat("m", 5000), "end 1"}, nil},
		"a window of 2^31":   {func(r *raw) { r.WriteWindowUpdate(0, 1<<31-1) }, nil, []string{"GOAWAY 0 FLOW_CONTROL_ERROR"}},
		"odd settings":       {func(r *raw) { r.WriteRawFrame(http2.FrameSettings, 0, 0, make([]byte, 5)) }, nil, []string{"GOAWAY 0 FRAME_SIZE_ERROR"}},
		"a frame size of 0":  {func(r *raw) { r.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 0}) }, nil, []string{"GOAWAY 0 PROTOCOL_ERROR"}},
		"settings on stream": {func(r *raw) { r.WriteRawFrame(http2.FrameSettings, 0, 1, nil) }, nil, []string{"GOAWAY 0 PROTOCOL_ERROR"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRaw(true)
			tc.send(r)
			whole := newRecorder(Options{})
			feed(whole, r.Bytes(), r.Len())
			if tc.events != nil && !slices.Equal(whole.events, tc.events) {
				t.Errorf("events %q, want %q", whole.events, tc.events)
			}
			frames := said(t, whole.conn.Out())
			for _, want := range tc.said {
				if !slices.Contains(frames, want) {
					t.Errorf("sent %q, want %q", frames, want)
				}
			}
			if len(tc.said) == 0 && slices.ContainsFunc(frames, func(f string) bool { return strings.HasPrefix(f, "GOAWAY") || strings.HasPrefix(f, "RST") }) {
				t.Errorf("sent %q", frames)
			}
			bits := newRecorder(Options{})
			feed(bits, r.Bytes(), 1)
			if !slices.Equal(bits.events, whole.events) {
				t.Errorf("byte by byte: events %q, want %q", bits.events, whole.events)
			}
		})
	}
}

// feed gives p in pieces, as a driver does.
func feed(r *recorder, p []byte, piece int) error {
	r0, w := 0, 0
	for w < len(p) {
		w = min(w+piece, len(p))
		n, err := r.conn.Feed(p[r0:w], 1)
		if err != nil {
			return err
		}
		r0 += n
	}
	return nil
}

func TestTooManyFieldsGetAnAnswer(t *testing.T) {
	raw := newRaw(true)
	f := slices.Clone(get)
	for i := range 300 {
		f = append(f, fmt.Sprint("f", i), "v")
	}
	raw.head(1, true, f...)
	r := newRecorder(Options{})
	if err := feed(r, raw.Bytes(), raw.Len()); err != nil || len(r.events) != 1 || !strings.Contains(r.events[0], "refused 431") {
		t.Errorf("%v, %.100q", err, r.events)
	}
}

// pair joins a client and a server, and carries bytes until nobody has any.
func pair(t *testing.T, client, server *recorder) {
	t.Helper()
	for range 1000 {
		up, down := client.conn.TakeOut(nil), server.conn.TakeOut(nil)
		if len(up)+len(down) == 0 {
			return
		}
		if err := feed(server, up, 1<<20); err != nil {
			t.Fatalf("server: %v", err)
		}
		if err := feed(client, down, 1<<20); err != nil {
			t.Fatalf("client: %v", err)
		}
	}
	t.Fatal("they never stop")
}

func TestBothSides(t *testing.T) {
	client, server := newRecorder(Options{Client: true}), newRecorder(Options{})
	pair(t, client, server)
	s, err := client.conn.Open(&Head{Method: "POST", Scheme: "https", Authority: "h", Path: "/x", Length: 5,
		Fields: view.Fields{{Name: "Accept", Value: "*/*"}, {Name: "X-Long", Value: strings.Repeat("y", 20<<10)}}}, false)
	if err != nil {
		t.Fatal(err)
	}
	s.Owner = client
	s.SendData([]byte("hello"), true)
	pair(t, client, server)
	r := server.streams[1]
	r.Respond(103, view.Fields{{Name: "Link", Value: "</x>"}}, -1, false)
	r.Respond(200, view.Fields{{Name: "Content-Type", Value: "text/plain"}}, -1, false)
	r.SendData([]byte("ok"), false)
	r.SendTrailers(view.Fields{{Name: "Grpc-Status", Value: "0"}})
	pair(t, client, server)
	wantServer := []string{"head 1 POST https://h/x accept=*/* x-long=" + strings.Repeat("y", 20<<10) + " length 5", "data 1 hello", "end 1"}
	if !slices.Equal(server.events, wantServer) {
		t.Errorf("server: %.300q", server.events)
	}
	wantClient := []string{"head 1 103 link=</x>", "head 1 200 content-type=text/plain", "data 1 ok", "end 1 grpc-status=0"}
	if !slices.Equal(client.events, wantClient) {
		t.Errorf("client: %q", client.events)
	}
	if client.conn.Streams()+server.conn.Streams() > 0 || !s.Done() || !r.Done() {
		t.Error("a stream is left")
	}
}

// TestFlowControl sends more than all windows, with one that shrinks below zero.
func TestFlowControl(t *testing.T) {
	client, server := newRecorder(Options{Client: true, StreamWindow: 100_000}), newRecorder(Options{})
	body := bytes.Repeat([]byte("0123456789"), 300_000)
	s, err := client.conn.Open(&Head{Method: "GET", Scheme: "https", Authority: "h", Path: "/", Length: -1}, true)
	if err != nil {
		t.Fatal(err)
	}
	s.Owner = client
	pair(t, client, server)
	r := server.streams[1]
	r.Respond(200, nil, int64(len(body)), false)
	server.blocked[1] = body[r.SendData(body, true):]
	if sent := len(body) - len(server.blocked[1]); sent != 100_000 {
		t.Errorf("sent %d into a window of 100,000", sent)
	}
	if err := server.conn.moveWindows(10); err != nil || r.sendWindow != -99_990 {
		t.Errorf("window %d, %v", r.sendWindow, err)
	}
	if err := server.conn.moveWindows(100_000); err != nil {
		t.Error(err)
	}
	pair(t, client, server)
	got := strings.TrimPrefix(client.events[1], "data 1 ")
	if got != string(body) || client.events[2] != "end 1" {
		t.Errorf("%d bytes of %d; %.20q", len(got), len(body), client.events[2:])
	}

	held := newRecorder(Options{StreamWindow: 70_000})
	held.hold = true
	raw := newRaw(true)
	raw.head(1, false, get...)
	for range 5 {
		raw.WriteData(1, false, make([]byte, 16<<10))
	}
	if err := feed(held, raw.Bytes(), 1<<20); err != nil {
		t.Fatal(err)
	}
	if frames := said(t, held.conn.Out()); !slices.Contains(frames, "RST 1 FLOW_CONTROL_ERROR") {
		t.Errorf("more than the window: %q", frames)
	}
}

func TestGoAwayInTwoSteps(t *testing.T) {
	client, server := newRecorder(Options{Client: true}), newRecorder(Options{})
	open := func() *Stream {
		s, err := client.conn.Open(&Head{Method: "GET", Scheme: "https", Authority: "h", Path: "/", Length: -1}, true)
		if err != nil {
			t.Fatal(err)
		}
		s.Owner = client
		return s
	}
	open()
	pair(t, client, server)
	server.conn.Notice()
	open() // crosses the notice
	pair(t, client, server)
	if want := []string{"head 1 GET https://h/ end", "head 3 GET https://h/ end", "noticed"}; !slices.Equal(server.events, want) {
		t.Errorf("server: %q", server.events)
	}
	server.conn.GoAway()
	open() // crosses the last word
	pair(t, client, server)
	if want := []string{"goaway 2147483647 NO_ERROR", "goaway 3 NO_ERROR", "closed 5 REFUSED_STREAM remote true"}; !slices.Equal(client.events, want) {
		t.Errorf("client: %q", client.events)
	}
	if len(server.events) != 3 {
		t.Errorf("server: %q", server.events)
	}
	for _, id := range []uint32{1, 3} {
		server.streams[id].Respond(204, nil, -1, true)
	}
	pair(t, client, server)
	if server.conn.Streams() > 0 {
		t.Error("a stream is left")
	}
}

// TestResetsInVain counts what the client cancels and what it is refused.
func TestResetsInVain(t *testing.T) {
	cancel := newRaw(true)
	broken := newRaw(true)
	for i := range uint32(300) {
		cancel.head(2*i+1, true, get...)
		cancel.WriteRSTStream(2*i+1, http2.ErrCodeCancel)
		broken.head(2*i+1, true, get...)
		broken.WriteWindowUpdate(2*i+1, 0)
	}
	for name, raw := range map[string]*raw{"cancelled": cancel, "broken": broken} {
		r := newRecorder(Options{})
		err := feed(r, raw.Bytes(), 1<<20)
		if ce, ok := err.(*ConnError); !ok || ce.Code != EnhanceYourCalm {
			t.Errorf("%s: %v", name, err)
		}
		if n := len(r.streams); n > 201 {
			t.Errorf("%s: %d requests came through", name, n)
		}
	}
}

// TestResetAmidFields: a stream may be reset here while the last fields of the peer
// are on their way, in more than one frame.
func TestResetAmidFields(t *testing.T) {
	trailers := newRaw(true)
	trailers.head(1, false, get...)
	trailers.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: true, BlockFragment: trailers.block("a", "b")})
	server := newRecorder(Options{})
	response := newRaw(false)
	response.WriteSettings()
	response.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: response.block(":status", "200")})
	client := newRecorder(Options{Client: true})
	s, err := client.conn.Open(&Head{Method: "GET", Scheme: "https", Authority: "h", Path: "/", Length: -1}, true)
	if err != nil {
		t.Fatal(err)
	}
	client.streams[1] = s
	for _, side := range []struct {
		*recorder
		raw *raw
	}{{server, trailers}, {client, response}} {
		begun := side.raw.Len()
		side.raw.WriteContinuation(1, true, side.raw.block("c", "d"))
		side.raw.WritePing(false, [8]byte{})
		if err := feed(side.recorder, side.raw.Bytes()[:begun], begun); err != nil {
			t.Fatal(err)
		}
		known := len(side.events)
		side.streams[1].Reset(NoError)
		if err := feed(side.recorder, side.raw.Bytes()[begun:], 1<<20); err != nil || len(side.events) != known {
			t.Errorf("%v, %q", err, side.events)
		}
		if out := said(t, side.conn.Out()); out[len(out)-1] != "PING ack true" {
			t.Errorf("the connection does not go on: %q", out)
		}
	}
}

// TestFreedStream: what is still to come for a stream does not reach the one that
// has its place.
func TestFreedStream(t *testing.T) {
	for range 100 {
		raw := newRaw(true)
		raw.head(1, false, get...)
		raw.WriteData(1, true, []byte("hello"))
		old, next := newRecorder(Options{}), newRecorder(Options{})
		split := raw.Len() - 3
		if err := feed(old, raw.Bytes()[:split], split); err != nil {
			t.Fatal(err)
		}
		s := old.streams[1]
		s.Reset(NoError)
		s.Free()
		if err := feed(next, raw.Bytes()[:split], split); err != nil {
			t.Fatal(err)
		}
		if err := feed(old, raw.Bytes()[split:], 3); err != nil {
			t.Fatal(err)
		}
		for _, r := range []*recorder{old, next} {
			if want := []string{"head 1 GET https://h/", "data 1 he"}; !slices.Equal(r.events, want) {
				t.Fatalf("%q, want %q", r.events, want)
			}
		}
	}
}

// TestOpenNeedsNoRoom: a client's stream takes none of the streams that servers have
// left, which come with room for a request's fields.
func TestOpenNeedsNoRoom(t *testing.T) {
	c := New(Options{Client: true}, newRecorder(Options{}))
	head := &Head{Method: "GET", Scheme: "https", Authority: "h", Path: "/", Length: -1}
	out := make([]byte, 0, 4<<10)
	open := func() {
		s, err := c.Open(head, true)
		if err != nil {
			t.Fatal(err)
		}
		s.Reset(Cancel)
		out = c.TakeOut(out)
	}
	for range 100 { // what others have left
		open()
	}
	if n := testing.AllocsPerRun(100, open); n > 1 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzFeed(f *testing.F) {
	seed := func(client bool, build func(*raw)) {
		r := newRaw(!client)
		if client {
			r.WriteSettings()
		}
		build(r)
		f.Add(client, uint8(7), r.Bytes())
	}
	seed(false, func(r *raw) { r.head(1, false, get...); r.WriteDataPadded(1, true, []byte("x"), []byte{0, 0}) })
	seed(false, func(r *raw) { r.head(1, false, get...); r.head(1, true, "a", "b"); r.WriteGoAway(0, 0, nil) })
	seed(false, func(r *raw) {
		r.WriteSettings(http2.Setting{ID: 4, Val: 1})
		r.head(1, true, get...)
		r.WriteWindowUpdate(1, 9)
	})
	seed(true, func(r *raw) {
		r.head(1, false, ":status", "200", "content-length", "1")
		r.WriteData(1, true, []byte("x"))
	})
	seed(true, func(r *raw) {
		r.head(1, false, ":status", "103")
		r.head(1, true, ":status", "204")
		r.WritePing(true, [8]byte{})
	})
	f.Fuzz(func(t *testing.T, client bool, piece uint8, p []byte) {
		run := func(piece int) *recorder {
			r := newRecorder(Options{Client: client})
			if client {
				s, _ := r.conn.Open(&Head{Method: "GET", Scheme: "https", Authority: "h", Path: "/", Length: -1}, true)
				s.Owner = r
				r.conn.TakeOut(nil)
				r.conn.tableless = false
			}
			_ = feed(r, p, piece)
			return r
		}
		whole, parts := run(len(p)+1), run(int(piece)+1)
		said(t, whole.conn.Out())
		if !slices.Equal(whole.events, parts.events) || !bytes.Equal(whole.conn.Out(), parts.conn.Out()) {
			t.Fatalf("in parts: %q, want %q", parts.events, whole.events)
		}
	})
}
