"""The course: problem sets that change with the cohort, and their grading.

`authoring` is what a problem set is made of, `generate` turns the sets into this year's nbgrader
course, and `grade` grades what was submitted, with nbgrader's own gradebook. Student code runs in
`worker`, a process that knows neither solutions nor hidden instances; `confine` is the trusted end
of the line to it.
"""
