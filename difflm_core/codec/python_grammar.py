"""A context-free grammar of Python source text, for writing that is constrained by it.

It is a grammar of layout as well: blocks are indented by four blanks, and every depth has rules of
its own, since a context-free grammar cannot count. Precedence is left out: it decides what a text
means, not whether it is one. What such a grammar cannot say, such as that no argument is given
twice, the parser finds afterwards.

The notation is llguidance's dialect of Lark. Terminals take the blanks around them along: inside
brackets these may be line breaks and comments, outside they may not. So what stands in expressions
is there twice, with the suffixes `_o` (outside) and `_i` (inside). The longest terminal wins and is
not taken back, so blanks before a word are a terminal of their own: else those that begin ` for`
would be lost where an `f"` comes.
"""

from __future__ import annotations

import re

# Levels of blocks.
MAX_DEPTH = 8

_KEYWORDS = (
    "False|None|True|and|as|assert|async|await|break|class|continue|def|del|elif|else|except|"
    "finally|for|from|global|if|import|in|is|lambda|nonlocal|not|or|pass|raise|return|try|while|"
    "with|yield"
)
_OPERATORS = r"\*\*|\*|\/\/|\/|%|@|\+|-|<<|>>|&|\^|\||<=|>=|==|!=|<|>"
_BLANKS = {"o": r"( |\\\n)", "i": r"([ \n]|#[^\n]*\n)"}

_WHOLE = rf"""
start: LEAD? statement_0 (LINE_0 statement_0)* REST?
LEAD: /( *(#[^\n]*)?\n)+/
REST: /( *#[^\n]*)?(\n *(#[^\n]*)?)*/
NAME: /[A-Za-z_\x80-\u{{10ffff}}][A-Za-z0-9_\x80-\u{{10ffff}}]*/ & ~/({_KEYWORDS})/
CONSTANT: /True|False|None|\.\.\./
NUMBER: /(0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+)/
  | /([1-9][0-9_]*|0+)(\.[0-9_]*)?([eE][+\-]?[0-9]+)?[jJ]?/
  | /\.[0-9]+([eE][+\-]?[0-9]+)?[jJ]?/
LINE_TEXT: /([rRuUfFbB]|[rR][bBfF]|[bBfF][rR])?("([^"\\\n]|\\(.|\n))*"|'([^'\\\n]|\\(.|\n))*')/
LONG_TEXT: /([rRuUfFbB]|[rR][bBfF]|[bBfF][rR])?"{{3}}("{{0,2}}([^"\\]|\\(.|\n)))*"{{3}}/
  | /([rRuUfFbB]|[rR][bBfF]|[bBfF][rR])?'{{3}}('{{0,2}}([^'\\]|\\(.|\n)))*'{{3}}/
UNARY: /not +|[\-+~] ?/
DOT: /\./
AUGMENTED: / *(\+|-|\*|\/|%|@|&|\||\^|\/\/|>>|<<|\*\*)= */
ASSIGN: / *= */
ARROW: / *-> */
SEMICOLON: / *; */
AS: / +as +/
COLON_LINE: / *: */
DOTS: /\.+/
DECORATOR: /@ */
"""

_EXPRESSIONS = r"""
OPERATOR_@: /%blank%*(%operators%)%blank%*/
WORD_@: /(and|or|in|is|not%blank%+in|is%blank%+not)%blank%+/
COMMA_@: /%blank%*,%blank%*/
BETWEEN_@: /%blank%+/
expr_@: operation_@ | operation_@ if_@ operation_@ else_in_@ expr_@ | lambda_@
operation_@: operand_@ ((OPERATOR_@ | BETWEEN_@ WORD_@) operand_@)*
if_@: BETWEEN_@ "if" BETWEEN_@
else_in_@: BETWEEN_@ "else" BETWEEN_@
operand_@: (UNARY | "await ")* primary_@
primary_@: NAME | CONSTANT | NUMBER | texts_@ | enclosed
  | primary_@ attribute | primary_@ called | primary_@ subscript
texts_@: (LINE_TEXT | LONG_TEXT) (BETWEEN_@? (LINE_TEXT | LONG_TEXT))*
lambda_@: "lambda" (/ +/ parameters)? /: */ expr_@
starred_@: /\* ?/ operand_@
several_@: (expr_@ | starred_@) (COMMA_@ (expr_@ | starred_@))* COMMA_@?
yielded_@: "yield" (BETWEEN_@ ("from" BETWEEN_@ expr_@ | several_@))?
target_@: NAME | primary_@ attribute | primary_@ subscript | /\* ?/ target_@
  | /[(]%inner%*/ targets_i /%inner%*[)]/ | /\[%inner%*/ targets_i /%inner%*\]/
targets_@: target_@ (COMMA_@ target_@)* COMMA_@?
"""

_ENCLOSED = r"""
attribute: DOT NAME
enclosed: /[(]%inner%*[)]|\[%inner%*\]|[{]%inner%*[}]/
  | /[(]%inner%*/ (several_i | yielded_i | named | element loops) /%inner%*[)]/
  | /\[%inner%*/ (several_i | element loops) /%inner%*\]/
  | /[{]%inner%*/ (several_i | element loops | pairs | pair loops) /%inner%*[}]/
element: expr_i | starred_i | named
named: NAME /%inner%*:=%inner%*/ expr_i
loops: loop+
loop: BETWEEN_I ("async" BETWEEN_I)? "for" BETWEEN_I targets_i BETWEEN_I "in" BETWEEN_I searched
searched: operation_i (if_i condition)*
condition: operation_i | named
pairs: (pair | spread) (COMMA_I (pair | spread))* COMMA_I?
pair: expr_i /%inner%*:%inner%*/ expr_i
spread: /\*\* ?/ operand_i
called: /[(]%inner%*[)]/ | /[(]%inner%*/ (arguments COMMA_I? | element loops) /%inner%*[)]/
arguments: positional (COMMA_I positional)* (COMMA_I keyword)* | keyword (COMMA_I keyword)*
positional: expr_i | starred_i | named
keyword: NAME /%inner%*=%inner%*/ expr_i | spread | starred_i
subscript: /\[%inner%*/ slice (COMMA_I slice)* COMMA_I? /%inner%*\]/
slice: expr_i | named | starred_i | expr_i? COLON expr_i? (COLON expr_i?)?
COLON: /%inner%*:%inner%*/
parameters: parameter (COMMA_I parameter)* COMMA_I?
parameter: NAME annotation? (/%inner%*=%inner%*/ expr_i)? | /\*{1,2} ?/ NAME annotation? | /[*\/]/
annotation: /%inner%*:%inner%*/ expr_i
"""

_SIMPLE = r"""
line: small (SEMICOLON small)* SEMICOLON?
small: several_o | yielded_o | assignment | target_o AUGMENTED (several_o | yielded_o)
  | target_o /%outer%*:%outer%*/ expr_o (ASSIGN (several_o | yielded_o))?
  | /pass|break|continue/ | "return" (BETWEEN_O several_o | enclosed)?
  | "raise" (BETWEEN_O expr_o (BETWEEN_O "from" BETWEEN_O expr_o)?)?
  | /assert +/ expr_o (COMMA_O expr_o)? | /del +/ targets_o
  | /(global|nonlocal) +/ NAME (COMMA_O NAME)* | imported
assignment: (targets_o ASSIGN)+ (several_o | yielded_o)
imported: /import +/ module alias? (COMMA_O module alias?)*
  | /from +/ (DOTS? module | DOTS) BETWEEN_O "import" BETWEEN_O (/\*/ | members)
members: NAME alias? (COMMA_O NAME alias?)*
  | /[(]%inner%*/ NAME alias? (COMMA_I NAME alias?)* COMMA_I? /%inner%*[)]/
module: NAME (DOT NAME)*
alias: AS NAME
"""

# A line ends with its comment; blank and commented lines follow; then the indentation.
_LINE = r"LINE_@: /( *#[^\n]*)?(\n *(#[^\n]*)?)*\n {%indent%}/"
_BLOCKS = r"""
statement_@: line | compound_@
compound_@: /if +/ expr_o suite_@ (LINE_@ /elif +/ expr_o suite_@)* else_@?
  | /while +/ expr_o suite_@ else_@?
  | /(async +)?for +/ targets_o BETWEEN_O "in" BETWEEN_O several_o suite_@ else_@?
  | /try/ suite_@ ((LINE_@ handler suite_@)+ else_@? finally_@? | finally_@)
  | /(async +)?with +/ contexts suite_@
  | (DECORATOR expr_o LINE_@)* (function suite_@ | /class +/ NAME called? suite_@)
else_@: LINE_@ /else/ suite_@
finally_@: LINE_@ /finally/ suite_@
suite_@: COLON_LINE (line | block_@)
block_@: LINE_% statement_% (LINE_% statement_%)*
"""
_LAST_BLOCK = "statement_@: line"
_HEADS = r"""
handler: "except" (BETWEEN_O? /\*/)? (BETWEEN_O? expr_o (BETWEEN_O "as" BETWEEN_O NAME)?)?
contexts: context (COMMA_O context)*
  | /[(]%inner%*/ context_i (COMMA_I context_i)* COMMA_I? /%inner%*[)]/
context: expr_o (BETWEEN_O "as" BETWEEN_O target_o)?
context_i: expr_i (BETWEEN_I "as" BETWEEN_I target_i)?
function: /(async +)?def +/ NAME /%outer%*[(]%inner%*/ parameters? /%inner%*[)]/ (ARROW expr_o)?
"""


def python_grammar() -> str:
    """The grammar, in llguidance's dialect of Lark."""
    parts = [_WHOLE, _ENCLOSED, _SIMPLE, _HEADS]
    for place, blank in _BLANKS.items():
        rules = re.sub(r"\b([A-Z]+)_@", rf"\1_{place.upper()}", _EXPRESSIONS)
        parts.append(rules.replace("@", place).replace("%blank%", blank))
    for depth in range(MAX_DEPTH):
        block = _BLOCKS if depth < MAX_DEPTH - 1 else _LAST_BLOCK
        block = re.sub(r"(LINE|statement)_%", rf"\1_{depth + 1}", f"{_LINE}\n{block}")
        parts.append(block.replace("@", str(depth)).replace("%indent%", str(4 * depth)))
    text = "\n".join(parts)
    text = text.replace("%operators%", _OPERATORS)
    return text.replace("%outer%", _BLANKS["o"]).replace("%inner%", _BLANKS["i"])
