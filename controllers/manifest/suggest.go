package manifest

import (
	"maps"
	"slices"
	"strings"
)

// suggestion is the remedy for an unknown field: the known one that it was
// probably meant to be, or all of them.
func suggestion(name string, known structFields) string {
	best, distance := "", 3
	if name == "serviceName" || name == "servicePort" {
		return "networking.k8s.io/v1 writes service.name and service.port.number"
	}
	if len(name) > 64 {
		return ""
	}
	names := slices.Sorted(maps.Keys(known))
	for _, k := range names {
		if dist := editDistance(strings.ToLower(name), strings.ToLower(k)); dist < distance {
			best, distance = k, dist
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	return "known here: " + strings.Join(names, ", ")
}

// editDistance is the number of insertions, deletions and replacements that
// lead from a to b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
