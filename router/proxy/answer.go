package proxy

import (
	"html"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/portico-ingress/portico/router/view"
)

// answer sends the engine's own response.
func (x *exchange) answer(f *fault) {
	title := strconv.Itoa(f.status) + " " + http.StatusText(f.status)
	contentType, body := "text/plain; charset=utf-8", title+": "+f.detail+"\n"
	if x.req.ID != "" {
		body += "request id: " + x.req.ID + "\n"
	}
	if strings.Contains(x.req.Fields.Get("Accept"), "text/html") {
		contentType = "text/html; charset=utf-8"
		body = "<!doctype html><title>" + html.EscapeString(title) + "</title>" +
			"<h1>" + html.EscapeString(title) + "</h1>" +
			"<p>" + html.EscapeString(f.detail) + "</p>" +
			"<p><small>request id: " + html.EscapeString(x.req.ID) + "</small></p>\n"
	}
	x.answerText(f.status, f.reason, contentType, body, f.fields)
}

func (x *exchange) answerText(status int, reason, contentType, body string, more view.Fields) {
	fields := view.Fields{
		{Name: "Date", Value: time.Now().UTC().Format(http.TimeFormat)},
		{Name: "Content-Type", Value: contentType},
		{Name: "X-Content-Type-Options", Value: "nosniff"},
	}
	if x.req.ID != "" {
		fields = fields.Add("X-Request-ID", x.req.ID)
	}
	x.rec.Reason = reason
	err := x.begin(&responseHead{
		Status: status,
		Fields: append(fields, more...),
		Length: int64(len(body)),
		NoBody: x.req.Method == "HEAD",
	})
	if err == nil && x.req.Method != "HEAD" {
		x.rec.BytesOut += int64(len(body))
		err = x.front.Write([]byte(body))
	}
	if err == nil {
		err = x.front.End(nil)
	}
	if err != nil {
		x.front.Abort()
	}
}
