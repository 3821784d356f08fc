package state

import (
	"fmt"

	"gw/rpc/gwv1"
)

func refuse(code gwv1.RefusalCode, reason, message string, v ...*gwv1.Violation) *gwv1.Refusal {
	return &gwv1.Refusal{Code: code, Message: message, Detail: &gwv1.ErrorDetail{Reason: reason, Violations: v}}
}

func invalid(message string) *gwv1.Refusal {
	return refuse(gwv1.RefusalCode_REFUSAL_CODE_INVALID, "invalid", message)
}

func notFound(what, name string) *gwv1.Refusal {
	return refuse(gwv1.RefusalCode_REFUSAL_CODE_NOT_FOUND, "not_found", fmt.Sprintf("there is no %s %q", what, shown(name)))
}

func exists(what, name string) *gwv1.Refusal {
	return refuse(gwv1.RefusalCode_REFUSAL_CODE_ALREADY_EXISTS, "already_exists", fmt.Sprintf("%s %q is there already", what, shown(name)))
}
