package folder

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/portico-ingress/portico/controllers/manifest"
	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router/diag"
)

// reporter tells the user what is wrong: once when it turns up, and once when
// it is mended. Lines that move because others were added above are no news.
type reporter struct {
	to           io.Writer
	lastFaults   map[manifest.Fault]bool // without their lines
	lastProblems map[diag.Problem]bool
	lastNotices  map[string]bool
}

func newReporter(to io.Writer) *reporter { return &reporter{to: to} }

// faults tells of the faults of one load. kept says that because of them the
// load was not handed over.
func (r *reporter) faults(faults []manifest.Fault, kept bool) {
	now := make(map[manifest.Fault]bool, len(faults))
	news := false
	for _, f := range faults {
		key := f
		key.Line = 0
		if now[key] = true; !r.lastFaults[key] {
			r.line(f.String())
			news = true
		}
	}
	switch {
	case len(faults) == 0 && len(r.lastFaults) > 0:
		r.line("mended: the manifests have no faults any more and are served as they are")
	case kept && !news && len(now) == len(r.lastFaults): // another file was edited
		r.line(fmt.Sprintf("still %s, the first in %s:%d: this change is not served, the last good table is", count(len(faults), "fault"), faults[0].File, faults[0].Line))
	case kept:
		r.line(fmt.Sprintf("%s: the last good table keeps being served", count(len(faults), "fault")))
	case news:
		r.line(fmt.Sprintf("%s: everything else is served", count(len(faults), "fault")))
	}
	r.lastFaults = now
}

// notices tells what else there is to know of a load.
func (r *reporter) notices(set *manifest.Set, world *translate.World) {
	now := make(map[string]bool)
	say := func(text, key string) {
		if now[key] = true; !r.lastNotices[key] {
			r.line(text)
		}
	}
	for _, n := range set.Notices {
		say(n.String(), n.Object.String()+n.Text)
	}
	for _, s := range world.Skipped {
		say(place(set, s.Object, "")+s.Object.String()+" is not served: "+s.Why, s.Object.String()+s.Why)
	}
	if len(set.Ignored) > 0 {
		kinds := slices.Sorted(maps.Keys(set.Ignored))
		for i, kind := range kinds {
			kinds[i] = fmt.Sprintf("%d %s", set.Ignored[kind], kind)
		}
		text := "ignored objects of other kinds: " + strings.Join(kinds, ", ")
		say(text, text)
	}
	r.lastNotices = now
}

// problems tells of what is wrong with objects that are well-formed.
func (r *reporter) problems(set *manifest.Set, problems []diag.Problem) {
	now, kinds := make(map[diag.Problem]bool, len(problems)), make(map[diag.Problem]bool)
	for _, p := range problems {
		kinds[kind(p)] = true
		if p.Reason == ReasonManifest { // told as a fault
			continue
		}
		if now[p] = true; !r.lastProblems[p] {
			r.line(problemText(set, p))
		}
	}
	for _, p := range sorted(r.lastProblems) {
		// One that is told in other words, or whose object is gone, is not mended.
		if _, _, exists := set.Position(p.Object, ""); exists && !kinds[kind(p)] {
			r.line("mended: " + p.Object.String() + ": " + p.Message)
		}
	}
	r.lastProblems = now
}

// kind is what makes two problems the same one, whatever is said of it.
func kind(p diag.Problem) diag.Problem {
	return diag.Problem{Object: p.Object, Field: p.Field, Reason: p.Reason}
}

func sorted(set map[diag.Problem]bool) []diag.Problem {
	return slices.SortedFunc(maps.Keys(set), diag.Compare)
}

// problemText is Problem.String with the place in front.
func problemText(set *manifest.Set, p diag.Problem) string {
	text := place(set, p.Object, p.Field) + p.Object.String() + ": "
	if p.Field != "" {
		text += p.Field + ": "
	}
	return text + p.Text()
}

func place(set *manifest.Set, ref diag.Ref, field string) string {
	file, line, ok := set.Position(ref, field)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%s:%d: ", file, line)
}

func (r *reporter) line(text string) { _, _ = fmt.Fprintln(r.to, strings.TrimRight(text, "\n")) }

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
