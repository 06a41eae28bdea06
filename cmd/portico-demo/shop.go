package main

import (
	"embed"
	"html/template"
	"net/http"
)

//go:embed pages
var files embed.FS

var pages = template.Must(template.ParseFS(files, "pages/*.html"))

// page is what the pages show of the request that they answer.
type page struct {
	Backend string
	Request *http.Request
	Fields  []field
}

// newShop answers every path with a page that tells how the request arrived.
func newShop(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { render(w, r, "shop.html", name) })
}

func render(w http.ResponseWriter, r *http.Request, file, name string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_ = pages.ExecuteTemplate(w, file, page{Backend: name, Request: r, Fields: forwarded(r)})
}
